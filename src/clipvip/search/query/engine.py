"""From a query to its answers: vectors of the terms, nearest segments, merged windows, a page of hits.

Shapes: E embedding size.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from clipvip.errors import InputError, UsageError
from clipvip.files import same_name
from clipvip.search.index._lance import one_line_errors
from clipvip.search.index.facts import note_facts
from clipvip.search.index.mmap_cache import cache_folder, load_or_make, open_snapshot, read_snapshot
from clipvip.search.index.store import Store
from clipvip.search.query.ann import EXACT_ROWS, IndexedSegments
from clipvip.search.query.background import best_scores, p_value
from clipvip.search.query.calibration import Bank, RescoredScan, open_bank
from clipvip.search.query.exact import ExactSegments, Scan, Scored, Segments
from clipvip.search.query.filters import Condition, conditions
from clipvip.search.query.merge import Answer, merge_windows
from clipvip.search.query.query import Filters, Query, Term
from clipvip.search.query.results import Hit, Results
from clipvip.video import read_frames, read_image

if TYPE_CHECKING:
    from clipvip.encode import EncoderProtocol

CANDIDATES = 8
"""Segments looked at for each answer, at first: windows of one video are usually near to each other."""
REMEMBERED = 16
"""Filters whose background scores are remembered."""
ROUNDING = 1e-6
"""A product with fewer vectors may differ in its last bits."""


class Searcher:
    """Answers queries from the tables of one index. encoder: is called when a term, or the bank, needs it."""

    def __init__(self, store: Store, encoder: Callable[[], EncoderProtocol]):
        self._store = store
        self._encoder = encoder
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._read: tuple[int, Segments] | None = None
        self._bank: Bank | None = None
        self._tops: OrderedDict[str, np.ndarray] = OrderedDict()

    def answer(self, query: Query) -> Results:
        """The answers to `query`. Raises: as `Library.search`."""
        wanted = self.conditions(query.filters)
        vector = query_vector(query.terms, self._store.settings.embedding_size, self._encoder, self._store.vector)
        segments = self.segments(exact=query.exact)
        scan = segments.scan(vector, wanted)
        p = None
        if query.false_alarm is not None:
            nulls = self._null_vectors(query.terms, query.false_alarm)
            best = scan.top(1).scores
            p = p_value(best[0], self._best_scores(nulls, segments, wanted)) if len(best) else 1.0
        ground = float(segments.mean @ vector) if query.merge else 0.0
        if query.rescore == "qbnorm":
            scan = RescoredScan(scan, self.bank, self._best_scores(self.bank.vectors, segments, ()))
            if query.merge and len(segments.sample):
                ground = float(scan.scores(segments.sample @ vector, segments.sample).mean())
        hits = _page(query, scan, ground)
        return Results(tuple(hits), bool(hits) and (p is None or p <= (query.false_alarm or 0.0)), p)

    def segments(self, *, exact: bool = False) -> Segments:
        """The segments of the table's version. exact: search no approximate index."""
        with self._lock:
            version = self._store.version
            if self._read is None or self._read[0] != version:
                self._read = version, self._open()
                self._tops.clear()
        segments = self._read[1]
        if exact and isinstance(segments, IndexedSegments):
            return IndexedSegments(self._store.segments, self._store.read, self._store.checked, exact=True)
        return segments

    @property
    def bank(self) -> Bank:
        """The background queries of the index; who asks first may have to encode them, and the others wait."""
        with self._opening:
            if self._bank is None:
                self._bank = open_bank(self._store, self._encoder)
            return self._bank

    def conditions(self, filters: Filters) -> list[Condition]:
        """Raises: UsageError for a root that the index does not have, and as `filters.conditions`."""
        wanted = conditions(filters)
        if filters.root is not None:
            roots = self._store.root_names()
            wanted = [
                part._replace(value=same_name(str(part.value), roots)) if part.column == "root" else part
                for part in wanted
            ]
            if not any(column == "root" and value in roots for column, _, value in wanted):
                raise UsageError(
                    f"root: {filters.root} is not a folder of this index; it has {', '.join(roots) or 'none'} "
                    "(for a folder within one, filter by path)"
                )
        return wanted

    def _open(self) -> Segments:
        store = self._store
        if store.num_segments > EXACT_ROWS:
            return IndexedSegments(store.segments, store.read, store.checked)
        folder, size = cache_folder(store.uri), store.settings.embedding_size
        if store.facts is not None:
            snapshot = read_snapshot(folder, f"segments-{store.version_key}", size)
            if snapshot is not None:
                return ExactSegments(*snapshot)
        with one_line_errors(store.uri, "cannot be read"):
            snapshot = open_snapshot(store.segments, size, folder, store.checked)
            note_facts(store.uri, store.segments, store.settings)
            return ExactSegments(*snapshot)

    def _null_vectors(self, terms: tuple[Term, ...], rate: float) -> np.ndarray:
        """Queries of the form of this one, float32 [B, E]: background texts to be found, and what is not wanted.

        Raises: UsageError for a rate that the bank is too small for.
        """
        vectors = self.bank.vectors
        least = 1 / (1 + len(vectors))
        if rate < least:
            raise UsageError(
                f"false_alarm={rate:g}: {len(vectors)} background queries tell no rate below {least:.4f}; "
                "choose a higher one, or give the index more (clipvip index --background FILE)"
            )
        if len(terms) == 1 and terms[0].weight > 0:
            return vectors
        total = np.zeros_like(vectors)
        for number, (term, weight) in enumerate(zip(terms, relative_weights(terms), strict=True)):
            if weight > 0:
                total += weight * np.roll(vectors, number, axis=0)
            else:
                size = self._store.settings.embedding_size
                total += weight * _checked(term, size, self._encoder, self._store.vector)()
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)

    def _best_scores(self, queries: np.ndarray, segments: Segments, wanted: Sequence[Condition]) -> np.ndarray:
        """The best score of each of these vectors [B, E] among the segments that meet the conditions, float32 [B].

        Remembered; those of the bank itself in a whole library, in a file.
        """
        digest = hashlib.sha256(repr(wanted).encode() + np.ascontiguousarray(queries).tobytes()).hexdigest()[:16]
        key = f"{self._store.version_key}-{digest}"
        tops = self._tops.get(key)
        if tops is None:
            name = f"tops-{key}.npy" if queries is self.bank.vectors and not wanted else None
            folder = cache_folder(self._store.uri)
            tops = load_or_make(folder, name, lambda: best_scores(queries, segments.blocks(wanted)))
            with self._lock:
                self._tops[key] = tops
                while len(self._tops) > REMEMBERED:
                    self._tops.popitem(last=False)
        return tops


def relative_weights(terms: Sequence[Term]) -> list[float]:
    """Weights as shares of the largest one: sums of very small or very large ones would be 0, or infinite."""
    largest = max(abs(term.weight) for term in terms)
    return [term.weight / largest for term in terms]


def query_vector(
    terms: tuple[Term, ...], size: int, encoder: Callable[[], EncoderProtocol], vector_of: Callable[[str], Any]
) -> np.ndarray:
    """The weighted sum of the terms' unit vectors, made unit norm: float32 [E].

    Raises: VideoDecodeError for a file that cannot be read; UsageError if the terms cancel each other out.
    """
    ready = [_checked(term, size, encoder, vector_of) for term in terms]  # a mistake shall not wait for the model
    vectors = np.stack([vector() for vector in ready])
    weights = np.array(relative_weights(terms), np.float32)
    total = weights @ vectors
    norm = float(np.linalg.norm(total))
    if not norm >= 1e-6 * np.abs(weights).sum():
        raise UsageError("the terms of the query cancel each other out, nothing is left to look for; change a weight")
    return (total / norm).astype(np.float32)


def _checked(
    term: Term, size: int, encoder: Callable[[], EncoderProtocol], vector_of: Callable[[str], Any]
) -> Callable[[], np.ndarray]:
    """What makes the vector of a term; all that needs no model is done. Raises: as `query_vector`."""
    if term.vector is not None or term.segment is not None:
        known = np.asarray(vector_of(term.segment or "") if term.vector is None else term.vector, np.float32)
        if known.shape != (size,):
            raise InputError(f"a query's vector has shape {list(known.shape)}, expected [{size}]")
        return lambda: known
    if term.image is not None:
        picture = read_image(term.image)
        return lambda: encoder().encode_images([picture])[0]
    if (video := term.video) is not None:
        path, span = (video[0], video[1:]) if isinstance(video, tuple) else (video, None)
        read_frames(path, [0], time_range=span)
        return lambda: encoder().encode_videos([video])[0]
    return lambda: encoder().encode_texts([term.text or ""])[0]


def _page(query: Query, scan: Scan, ground: float) -> list[Hit]:
    """The hits from number `offset` on. ground: the mean score."""
    wanted = query.offset + query.k
    m = CANDIDATES * wanted if query.merge or query.per_video else wanted
    while True:
        top = scan.top(m)
        scored, answers = _answers(query, scan, top, ground, wanted)
        if len(answers) >= wanted or len(top) < m:
            break
        m *= 4
    page = answers[query.offset : wanted]
    picked = pa.array([part.best for part in page], pa.int64())
    rows = scored.rows.select(["segment_id", "video_id", "root", "path"]).take(picked)
    return [
        Hit(
            rank=rank,
            score=float(scored.scores[part.best]),
            video=Path(row["root"], row["path"]),
            start_s=part.start_s,
            end_s=part.end_s,
            segment_id=row["segment_id"],
            video_id=row["video_id"],
        )
        for rank, (part, row) in enumerate(zip(page, rows.to_pylist(), strict=True), start=query.offset + 1)
    ]


def _answers(query: Query, scan: Scan, top: Scored, ground: float, wanted: int) -> tuple[Scored, list[Answer]]:
    """The answers among the best segments `top`, best first, as rows of the segments that come with them.

    The first `wanted` are all there; of those below, only some.
    """
    ids = top.rows["video_id"].to_pylist()
    scored = top
    if query.merge and len(top):
        # Each video has an answer as good as its best segment, so those after the first `wanted` videos have none of
        # the first `wanted` answers. Their lower windows are looked up: they may belong to an answer.
        scored = scan.of_videos(list(dict.fromkeys(ids))[:wanted])
        ids = scored.rows["video_id"].to_pylist()
    rows_of: dict[str, list[int]] = {}
    for row, video_id in enumerate(ids):
        rows_of.setdefault(video_id, []).append(row)
    # Below the last of `top`, a video that is not here may be better; below the `wanted`th video, nobody looks.
    least = float(top.scores[-1]) - ROUNDING if len(top) else 0.0
    if len(rows_of) >= wanted:
        least = max(least, float(scored.scores[list(rows_of.values())[wanted - 1][0]]))
    starts, ends = scored.rows["start_s"].to_numpy(), scored.rows["end_s"].to_numpy()
    answers: list[Answer] = []
    for numbers in rows_of.values():
        if query.merge:
            own = np.array(numbers)
            merged = merge_windows(starts[own], ends[own], scored.scores[own], ground, least)
            parts = [part._replace(best=numbers[part.best]) for part in merged]
        else:
            parts = [Answer(row, float(starts[row]), float(ends[row])) for row in numbers]
        answers += parts[:1] if query.per_video else parts
    # rows are best first, and so are answers by row
    answers = [part for part in answers if scored.scores[part.best] >= least]
    return scored, sorted(answers, key=lambda part: part.best)
