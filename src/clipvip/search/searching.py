"""From a query to its answers: vectors of the terms, nearest segments, merged windows, a page of hits.

Shapes: E embedding size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipvip.encode import Encoder
from clipvip.errors import InputError, UsageError
from clipvip.search.filters import conditions
from clipvip.search.merging import Answer, merge_windows
from clipvip.search.nearest import EXACT_ROWS, ExactSegments, IndexedSegments, Scan, Scored, Segments
from clipvip.search.query import Query, Term
from clipvip.search.results import Hit, Results
from clipvip.search.snapshot import cache_folder, open_snapshot

CANDIDATES = 8
"""Segments looked at for each answer, at first: windows of one video are usually near to each other."""
ROUNDING = 1e-6
"""A product with fewer vectors may differ in its last bits."""


class Searcher:
    """Answers queries from one table of segments. uri, table: of the index; size: E."""

    def __init__(self, uri: str, table: Any, size: int):
        self._table = table
        self._size = size
        self._folder = cache_folder(uri)
        self._lock = threading.Lock()
        self._read: tuple[int, Segments] | None = None

    def answer(self, query: Query, encoder: Callable[[], Encoder], vector_of: Callable[[str], Any]) -> Results:
        """The answers to `query`. encoder: is called if a term needs it; vector_of: of a segment, by its id."""
        vector = query_vector(query.terms, self._size, encoder, vector_of)
        segments = self.segments(exact=query.exact)
        scan = segments.scan(vector, conditions(query.filters))
        ground = float((segments.sample @ vector).mean()) if query.merge and len(segments.sample) else 0.0
        return Results(tuple(_page(query, scan, ground)))

    def segments(self, *, exact: bool = False) -> Segments:
        """The segments of the table's version. exact: search no approximate index."""
        with self._lock:
            version = self._table.version
            if self._read is None or self._read[0] != version:
                self._read = version, self._open()
        segments = self._read[1]
        return IndexedSegments(self._table, exact=True) if exact and isinstance(segments, IndexedSegments) else segments

    def _open(self) -> Segments:
        if self._table.count_rows() > EXACT_ROWS:
            return IndexedSegments(self._table)
        return ExactSegments(*open_snapshot(self._table, self._size, self._folder))


def query_vector(
    terms: tuple[Term, ...], size: int, encoder: Callable[[], Encoder], vector_of: Callable[[str], Any]
) -> np.ndarray:
    """The weighted sum of the terms' unit vectors, made unit norm: float32 [E].

    Raises: VideoDecodeError for a file that cannot be read; UsageError if the terms cancel each other out.
    """
    vectors = np.stack([_term_vector(term, size, encoder, vector_of) for term in terms])
    weights = np.array([term.weight for term in terms], np.float32)
    total = weights @ vectors
    norm = float(np.linalg.norm(total))
    if norm < 1e-6 * np.abs(weights).sum():
        raise UsageError("the terms of the query cancel each other out, nothing is left to look for; change a weight")
    return (total / norm).astype(np.float32)


def _term_vector(term: Term, size: int, encoder: Callable[[], Encoder], vector_of: Callable[[str], Any]) -> np.ndarray:
    if term.vector is not None:
        if np.shape(term.vector) != (size,):
            raise InputError(f"a query's vector has shape {list(np.shape(term.vector))}, expected [{size}]")
        return np.asarray(term.vector, np.float32)
    if term.segment is not None:
        return np.asarray(vector_of(term.segment), np.float32)
    if term.image is not None:
        return encoder().encode_images([term.image])[0]
    if term.video is not None:
        return encoder().encode_videos([term.video])[0]
    return encoder().encode_texts([term.text or ""])[0]


def _page(query: Query, scan: Scan, ground: float) -> list[Hit]:
    """The hits from number `offset` on. ground: the mean score."""
    wanted = query.offset + query.k
    m = CANDIDATES * wanted
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
        scored = scan.of_videos(list(dict.fromkeys(ids)))  # also the lower windows: they may belong to an answer
        ids = scored.rows["video_id"].to_pylist()
    rows_of: dict[str, list[int]] = {}
    for row, video_id in enumerate(ids):
        rows_of.setdefault(video_id, []).append(row)
    starts, ends = scored.rows["start_s"].to_numpy(), scored.rows["end_s"].to_numpy()
    answers: list[Answer] = []
    for numbers in rows_of.values():  # best videos first, as rows are
        if len(answers) >= wanted and sum(part.best < numbers[0] for part in answers) >= wanted:
            break  # no other video has a better one
        if query.merge:
            own = np.array(numbers)
            merged = merge_windows(starts[own], ends[own], scored.scores[own], ground)
            parts = [part._replace(best=numbers[part.best]) for part in merged]
        else:
            parts = [Answer(row, float(starts[row]), float(ends[row])) for row in numbers]
        answers += parts[:1] if query.per_video else parts
    # Below the last of `top`, a video that is not here may be better. Rows are best first, so are answers by row.
    answers = [part for part in answers if scored.scores[part.best] >= top.scores[-1] - ROUNDING]
    return scored, sorted(answers, key=lambda part: part.best)
