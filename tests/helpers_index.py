"""Indexing in processes of their own, to be killed or to meet there, and what an index then holds."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.search import Library
from helpers_video import write_video

OPTIONS: dict[str, Any] = {"windows_s": (2.0, 1.0)}


def write_library(folder: Path, count: int = 10) -> Path:
    """Short and longer videos, one that is there twice, and one that is none."""
    (folder / "more").mkdir(parents=True)
    for i in range(count):
        path = folder / ("more" if i % 3 else "") / f"{i}.{'avi' if i % 5 == 4 else 'mp4'}"
        write_video(path, 12 + 9 * i, grain=8, codec="mpeg4" if i % 5 == 4 else "libx264", g=str(5 + i))
    (folder / "copy.mp4").write_bytes((folder / "0.mp4").read_bytes())
    (folder / "broken.mp4").write_text("no video")
    return folder


def contents(library: Library) -> tuple[list[dict[str, Any]], np.ndarray, list[str], list[dict[str, Any]]]:
    """Everything in an index, in an order of its own: rows, their vectors, ids of thumbnails, failures."""
    library.refresh()
    store = library.store
    table = store.segments.to_arrow().sort_by("segment_id")
    vectors = np.array(table["vector"].to_pylist(), np.float32)
    thumbnails = sorted(store.thumbnails.to_arrow()["segment_id"].to_pylist())
    failures = sorted(store.failures.to_arrow().to_pylist(), key=lambda row: row["path"])
    columns = [name for name in table.column_names if name not in ("vector", "checksum")]  # which have rounding errors
    return table.select(columns).to_pylist(), vectors, thumbnails, failures


def assert_same(library: Library, expected: Library) -> None:
    """The same rows, thumbnails and failures, and nothing wrong with them."""
    rows, vectors, thumbnails, failures = contents(library)
    wanted_rows, wanted_vectors, wanted_thumbnails, wanted_failures = contents(expected)
    told = [row for row in rows if row not in wanted_rows], [row for row in wanted_rows if row not in rows]
    assert rows == wanted_rows, f"{len(rows)} rows, not {len(wanted_rows)}; only here and only there: {told}"
    np.testing.assert_allclose(vectors, wanted_vectors, atol=1e-5)
    assert thumbnails == wanted_thumbnails
    assert failures == wanted_failures
    assert library.verify(repair=False).problems == []


def index_here(
    pipe: Connection, uri: Path | str, model: Path, folders: list[Path], environment: dict[str, str]
) -> None:
    """What the process does: tell when it begins, and commit so often that any moment may be within a commit."""
    import clipvip.search.index.encode_files
    import clipvip.search.index.update

    os.environ.update(environment)  # the server of processes has that of the test which started it
    clipvip.search.index.update.COMMIT_FILES = 1
    clipvip.search.index.encode_files.BATCH_SIZE = 4
    library = Library(uri, model, device="cpu", **OPTIONS)
    _ = library.encoder
    pipe.send("ready")
    for folder in folders:
        library.add(folder)
    pipe.send("done")


def start(uri: Path | str, model: Path, folders: list[Path]) -> tuple[BaseProcess, Connection]:
    """A process that has said that it is ready. Torch is imported once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["clipvip.encode"])
    ours, theirs = context.Pipe()
    process = context.Process(target=index_here, args=(theirs, uri, model, folders, dict(os.environ)))
    process.start()
    theirs.close()
    assert ours.recv() == "ready"
    return process, ours


def killed_and_resumed(uri: Path, model: Path, folder: Path, longest_s: float, rng: random.Random) -> Iterator[bool]:
    """Index, killed at random moments up to `longest_s`, until a run comes to its end. Yields for each run: killed?"""
    killed = True
    while killed:
        process, pipe = start(uri, model, [folder])
        killed = not pipe.poll(rng.uniform(0, longest_s))
        if killed:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        else:
            assert pipe.recv() == "done"
        process.join()
        yield killed


def assert_kills_cost_nothing(folder: Path, model: Path, work: Path, *, num_kills: int, seed: int) -> None:
    """So many kills, in indexes made anew when they are complete; each in the end as one that nobody killed."""
    process, pipe = start(work / "undisturbed", model, [folder])
    started = time.monotonic()
    assert pipe.recv() == "done"
    longest_s = time.monotonic() - started
    process.join()
    rng, turn = random.Random(seed), 0
    while num_kills > 0:
        uri, turn = work / f"killed{turn}", turn + 1
        num_kills -= sum(killed_and_resumed(uri, model, folder, longest_s, rng))
        assert_same(Library(uri), Library(work / "undisturbed"))
