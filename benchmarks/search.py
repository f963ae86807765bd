"""Search at size: time, recall and memory of the library's nearest neighbours beside exact NumPy and FAISS HNSW.

The vectors are clustered as those of videos are: 20 segments around each video, videos around 2,000 topics, everything
with a spectrum that falls like 1/i, as embeddings' do (a few dozen directions matter), turned at random. Queries are
new videos of the same topics. Filters leave 1 %, 10 % and 50 % of the videos, whatever they show. Recall is against
exact search with the same filter. Each size and each peer in a process of its own, whose memory is told; times are of
single queries, one after the other, text encoding not included.

    python benchmarks/search.py --rows 10000 100000 1000000 --files /tmp/indexes [--only library faiss]
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from measure import describe, in_own_process, resident_mib, table

from clipvip.search import Filters, Query, Term
from clipvip.search.index._lance import EXACT_ROWS, update_ann_index
from clipvip.search.index.schema import Settings, segment_id_of
from clipvip.search.index.store import Store
from clipvip.search.query.engine import Searcher

SIZE = 512
BLOCK = 100_000
SEGMENTS = 20  # of a video
TOPICS = 2_000
SPECTRUM = 1 / np.sqrt(np.arange(1, SIZE + 1, dtype=np.float32))
HOUR_NS = 3600 * 10**9
TOP, WARMUPS = 10, 5
NAMES = {"library": "clipvip", "exact": "clipvip, exact=True", "numpy": "NumPy, exact", "faiss": "FAISS HNSW"}


@cache
def directions() -> np.ndarray:
    """Of the spectrum, float32 [SIZE, SIZE]: at random, as no axis of an embedding matters more than others."""
    turn, _ = np.linalg.qr(np.random.default_rng([0, 3]).standard_normal((SIZE, SIZE)))
    return ((SPECTRUM / np.linalg.norm(SPECTRUM))[:, None] * turn).astype(np.float32)


def noise(rng: np.random.Generator, n: int) -> np.ndarray:
    """Vectors of expected norm 1: float32 [n, SIZE]."""
    return rng.standard_normal((n, SIZE), dtype=np.float32) @ directions()


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def videos(rng: np.random.Generator, n: int) -> np.ndarray:
    topics = noise(np.random.default_rng([0, 0]), TOPICS)
    return topics[rng.integers(TOPICS, size=n)] + 0.8 * noise(rng, n)


def blocks(num_rows: int) -> Iterator[np.ndarray]:
    """The library's vectors, unit norm float32 [BLOCK, SIZE] at a time."""
    for number, start in enumerate(range(0, num_rows, BLOCK)):
        rng = np.random.default_rng([0, 1, number])
        n = min(BLOCK, num_rows - start)
        yield unit(np.repeat(videos(rng, -(-n // SEGMENTS)), SEGMENTS, axis=0)[:n] + 0.4 * noise(rng, n))


def queries(n: int) -> np.ndarray:
    return unit(videos(np.random.default_rng([0, 2]), n))


def video_times(num_rows: int) -> np.ndarray:
    """When the video of each row was last modified, in ns: int64 [num_rows]. One an hour."""
    return 1_600_000_000 * 10**9 + np.arange(num_rows) // SEGMENTS * HOUR_NS


def filters_of(num_rows: int) -> dict[str, tuple[Filters, np.ndarray | None]]:
    """What may answer, in the library's words and as a mask [num_rows]."""
    times = video_times(num_rows)
    found: dict[str, tuple[Filters, np.ndarray | None]] = {"no filter": (Filters(), None)}
    for share in (0.01, 0.1, 0.5):
        least = int(times[-int(num_rows * share)])
        after = datetime.fromtimestamp(least // 10**9)
        found[f"{share:.0%} by date"] = Filters(after=after), times >= least
    folder = np.arange(num_rows) // SEGMENTS % 10 == 0
    found["10% by path"] = Filters(path="0/**"), folder
    return found


def rows_of(vectors: np.ndarray, first: int) -> Any:
    """A table as an index has it, of videos of two minutes."""
    number = np.arange(first, first + len(vectors))
    video = number // SEGMENTS
    ids = [f"{v:016x}" for v in video]
    start_s = number % SEGMENTS * 6.0
    columns = {
        "segment_id": [segment_id_of(*segment) for segment in zip(ids, start_s, start_s + 12, strict=True)],
        "video_id": ids,
        "root": ["/library"] * len(video),
        "path": [f"{v % 10}/{v // 10 % 100}/clip {v}.mp4" for v in video],
        "content_hash": ids,
        "size_bytes": video * 1000,
        "mtime_ns": video_times(first + len(vectors))[first:],
        "duration_s": np.full(len(video), 6.0 * SEGMENTS + 6),
        "width": np.full(len(video), 1280, np.int32),
        "height": np.full(len(video), 720, np.int32),
        "start_s": start_s,
        "end_s": start_s + 12,
        "vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), SIZE),
    }
    return pa.table(columns)


def build(uri: str, num_rows: int) -> dict[str, float]:
    """Make the index of a library. Seconds to write and to index it, processor seconds of the latter, GiB on disk."""
    shutil.rmtree(uri, ignore_errors=True)
    start = time.perf_counter()
    store = Store.create(uri, Settings("no model", "0", SIZE, (12.0,), (6.0,)))
    for number, block in enumerate(blocks(num_rows)):
        store.segments.add(rows_of(block, number * BLOCK))
    written = time.perf_counter()
    cpu = time.process_time()
    update_ann_index(store.segments)
    store.segments.optimize(cleanup_older_than=timedelta(0))
    built, cpu_s = time.perf_counter(), time.process_time() - cpu
    if num_rows <= EXACT_ROWS:
        Searcher(store, no_encoder).segments()  # the files that exact search maps
    size = sum(path.stat().st_size for path in Path(uri).rglob("*") if path.is_file())
    return {"write_s": written - start, "index_s": built - written, "cpu_s": cpu_s, "gib": size / 2**30}


def truth(num_rows: int, num_queries: int) -> dict[str, list[set[int]]]:
    """By filter, the ten best rows of each query."""
    asked, masks = queries(num_queries), {name: mask for name, (_, mask) in filters_of(num_rows).items()}
    best: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for number, block in enumerate(blocks(num_rows)):
        rows = np.arange(number * BLOCK, number * BLOCK + len(block))
        scores = asked @ block.T
        for name, mask in masks.items():
            own = scores if mask is None else np.where(mask[rows], scores, -np.inf)
            top = np.argpartition(-own, TOP, axis=1)[:, :TOP]
            found = np.take_along_axis(own, top, 1), rows[top]
            best[name] = (
                tuple(np.concatenate(pair, 1) for pair in zip(best[name], found, strict=True)) if number else found
            )
    return {
        name: [set(row[order].tolist()) for row, order in zip(rows, np.argsort(-scores, 1)[:, :TOP], strict=True)]
        for name, (scores, rows) in best.items()
    }


def timed(ask: Callable[[int], set[int]], expected: list[set[int]]) -> list[str]:
    """p50 and p95 in ms, and recall, of all queries after a few to warm up."""
    for number in range(WARMUPS):
        ask(number)
    times, shares = [], []
    for number, wanted in enumerate(expected):
        start = time.perf_counter()
        found = ask(number)
        times.append(1000 * (time.perf_counter() - start))
        shares.append(len(found & wanted) / len(wanted))
    return [f"{np.median(times):.1f}", f"{np.percentile(times, 95):.1f}", f"{np.mean(shares):.3f}"]


def library_rows(uri: str, num_rows: int, expected: dict[str, list[set[int]]], *, exact: bool) -> list[list[str]]:
    """The library's own search, from query vector to hits, windows not merged (and once merged)."""
    searcher = Searcher(Store.open(uri), no_encoder)
    asked = queries(len(expected["no filter"]))
    rows = []
    for name, (filters, _) in filters_of(num_rows).items():
        for merge in (False, True) if name == "no filter" else (False,):

            def ask(number: int, filters: Filters = filters, merge: bool = merge) -> set[int]:
                query = Query(terms=(Term(vector=asked[number]),), filters=filters, merge=merge, exact=exact, k=TOP)
                hits = searcher.answer(query).hits
                return {int(hit.video_id, 16) * SEGMENTS + round(hit.start_s / 6) for hit in hits}

            p50, p95, recall = timed(ask, expected[name])
            rows.append([name + (", merged" if merge else ""), p50, p95, "" if merge else recall])
    return [[*row, f"{resident_mib():.0f}"] for row in rows]


def numpy_rows(num_rows: int, expected: dict[str, list[set[int]]]) -> list[list[str]]:
    """A product with all vectors, and the ten best."""
    vectors = np.concatenate(list(blocks(num_rows)))
    asked = queries(len(expected["no filter"]))
    rows = []
    for name, (_, mask) in filters_of(num_rows).items():

        def ask(number: int, mask: np.ndarray | None = mask) -> set[int]:
            scores = vectors @ asked[number]
            if mask is not None:
                scores[~mask] = -np.inf
            return set(np.argpartition(scores, -TOP)[-TOP:].tolist())

        rows.append([name, *timed(ask, expected[name])])
    return [[*row, f"{resident_mib():.0f}"] for row in rows]


def faiss_rows(num_rows: int, expected: dict[str, list[set[int]]]) -> tuple[list[list[str]], float]:
    """HNSW with 32 links, efSearch 64, and how long it took to build."""
    import faiss

    vectors = np.concatenate(list(blocks(num_rows)))
    index = faiss.IndexHNSWFlat(SIZE, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = 64
    start = time.perf_counter()
    index.add(vectors)
    built_s = time.perf_counter() - start
    del vectors
    asked = queries(len(expected["no filter"]))
    rows = []
    for name, (_, mask) in filters_of(num_rows).items():
        selector = None if mask is None else faiss.IDSelectorBatch(np.flatnonzero(mask))
        parameters = faiss.SearchParametersHNSW(efSearch=64, sel=selector)

        def ask(number: int, parameters: Any = parameters) -> set[int]:
            return set(index.search(asked[number : number + 1], TOP, params=parameters)[1][0].tolist())

        rows.append([name, *timed(ask, expected[name])])
    return [[*row, f"{resident_mib():.0f}"] for row in rows], built_s


def no_encoder() -> Any:
    raise AssertionError("the queries are vectors")


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--files", type=Path, required=True, help="where the indexes are made (a folder)")
    parser.add_argument("--keep", action="store_true", help="take the indexes that are there, and leave them there")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument(
        "--only", choices=("library", "exact", "numpy", "faiss"), nargs="*", default=["library", "numpy"]
    )
    options = parser.parse_args()
    for num_rows in options.rows:
        uri = str(options.files / f"search-{num_rows}")
        setting = []
        if not (options.keep and Path(uri).exists()):
            made = in_own_process(build, uri, num_rows)
            setting.append("written in {write_s:.1f} s, indexed in {index_s:.1f} s ({cpu_s:.0f} CPU s)".format(**made))
        size = sum(path.stat().st_size for path in Path(uri).rglob("*") if path.is_file()) / 2**30
        setting.append(f"{size:.2f} GiB on disk; {options.queries} queries")
        expected = in_own_process(truth, num_rows, options.queries)
        rows: list[list[str]] = []
        for way in options.only:
            if way == "numpy":
                found = in_own_process(numpy_rows, num_rows, expected)
            elif way == "faiss":
                found, built_s = in_own_process(faiss_rows, num_rows, expected)
                setting.append(f"FAISS built in {built_s:.1f} s")
            else:
                found = in_own_process(partial(library_rows, exact=way == "exact"), uri, num_rows, expected)
            rows += [[NAMES[way], *row] for row in found]
        headings = ["way", "filter", "p50 ms", "p95 ms", f"recall@{TOP}", "MiB of the process"]
        table(f"{num_rows:,} x {SIZE}", headings, rows, describe(torch.device("cpu"), "; ".join(setting)))
        if not options.keep:
            shutil.rmtree(uri)


if __name__ == "__main__":
    main()
