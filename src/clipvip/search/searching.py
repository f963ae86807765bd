"""From a query to its answers: vectors of the terms, nearest segments, merged windows, a page of hits.

Shapes: E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.encode import Encoder
from clipvip.errors import InputError, UsageError
from clipvip.search.filters import conditions
from clipvip.search.merging import Answer, merge_windows
from clipvip.search.nearest import ExactScan, ExactSegments, Scored
from clipvip.search.query import Query, Term
from clipvip.search.results import Hit, Results

CANDIDATES = 8
"""Segments looked at for each answer, at first: windows of one video are usually near to each other."""


def answer(
    query: Query, segments: ExactSegments, size: int, encoder: Callable[[], Encoder], vector_of: Callable[[str], Any]
) -> Results:
    """The answers to `query`. size: E; encoder: is called if a term needs it; vector_of: of a segment, by its id."""
    vector = query_vector(query.terms, size, encoder, vector_of)
    hits = _page(query, segments.scan(vector, conditions(query.filters)))
    return Results(tuple(hits))


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


def _page(query: Query, scan: ExactScan) -> list[Hit]:
    """The hits from number `offset` on."""
    wanted = query.offset + query.k
    m = CANDIDATES * wanted
    while True:
        top = scan.top(m)
        answers = _answers(query, scan, top)
        if len(answers) >= wanted or len(top) < m:
            break
        m *= 4
    return [
        Hit(rank, score, Path(row["root"], row["path"]), start_s, end_s, row["segment_id"], row["video_id"])
        for rank, (row, score, start_s, end_s) in enumerate(answers[query.offset : wanted], start=query.offset + 1)
    ]


def _answers(query: Query, scan: ExactScan, top: Scored) -> list[tuple[dict[str, Any], float, float, float]]:
    """Of these best segments: the row of each answer's best one, its score, and from when to when."""
    if not len(top):
        return []
    if query.merge:
        ids = list(dict.fromkeys(top.rows["video_id"].to_pylist()))
        scored = scan.of_videos(ids)  # also the lower windows: they may belong to an answer
    else:
        scored = top
    by_video: dict[str, list[int]] = {}
    for number, video_id in enumerate(scored.rows["video_id"].to_pylist()):
        by_video.setdefault(video_id, []).append(number)
    starts, ends = scored.rows["start_s"].to_numpy(), scored.rows["end_s"].to_numpy()
    found: list[Answer] = []
    for numbers in by_video.values():
        own = np.array(numbers)
        if query.merge:
            merged = merge_windows(starts[own], ends[own], scored.scores[own], scan.ground)
            parts = [part._replace(best=int(own[part.best])) for part in merged]
        else:
            parts = [Answer(number, float(starts[number]), float(ends[number])) for number in numbers]
        found += parts[:1] if query.per_video else parts
    found.sort(key=lambda part: part.best)  # best segments first, as they are
    rows = scored.rows.select(["segment_id", "video_id", "root", "path"])
    least = top.scores[-1]  # below it, another video may be better than what is known here
    found = [part for part in found if scored.scores[part.best] >= least]
    picked = rows.take([part.best for part in found]).to_pylist()
    return [
        (row, float(scored.scores[part.best]), part.start_s, part.end_s)
        for row, part in zip(picked, found, strict=True)
    ]
