"""From scored segments to hits: windows of a video that answer the same question are one answer.

The rule, best window first: it is an answer, together with those windows of its own length that overlap it (or each
other, in a chain) and are nearly as good. Whatever shares half of its time with the answer, of any length, belongs to
it, and is no answer of its own. So the best window decides on the scale: a moment found by a short window is not blown
up by the long ones around it, and an event longer than the windows is found in full.

Shapes: n windows of one video.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clipvip.search.query.exact import Scan, Scored
from clipvip.search.query.query import Hit, Query

NEAR = 0.85
"""Nearly as good: this share of the best window's height above the baseline, a query's mean over the library."""
SAME_LENGTH = 0.05
"""Lengths that differ by less than this share are the same: the last window of a video, rounding."""
COVERED = 0.5
"""The share of the shorter one's time from which on a window belongs to an answer."""
CANDIDATES = 8
"""Segments looked at for each answer, at first: windows of one video are usually near to each other."""
ROUNDING = 1e-6
"""A product with fewer vectors may differ in its last bits."""


class Answer(NamedTuple):
    """The best window's number, and from when to when."""

    best: int
    start_s: float
    end_s: float


def find_hits(query: Query, scan: Scan, baseline: float) -> list[Hit]:
    """The hits from number `offset` on. baseline: the mean score."""
    num_answers = query.offset + query.k
    m = CANDIDATES * num_answers if query.merge or query.per_video else num_answers
    while True:
        top = scan.top(m)
        scored, answers = _find_answers(query, scan, top, baseline, num_answers)
        if len(answers) >= num_answers or len(top) < m:
            break
        m *= 4
    page = answers[query.offset : num_answers]
    rows = scored.rows.select(["segment_id", "video_id", "root", "path"]).take(
        pa.array([answer.best for answer in page], pa.int64())
    )
    return [
        Hit(
            rank=rank,
            score=float(scored.scores[answer.best]),
            video=Path(row["root"], row["path"]),
            start_s=answer.start_s,
            end_s=answer.end_s,
            segment_id=row["segment_id"],
            video_id=row["video_id"],
        )
        for rank, (answer, row) in enumerate(zip(page, rows.to_pylist(), strict=True), start=query.offset + 1)
    ]


def _find_answers(
    query: Query, scan: Scan, top: Scored, baseline: float, num_answers: int
) -> tuple[Scored, list[Answer]]:
    """The answers among the best segments `top`, best first, as numbers of the segments that come with them.

    The first `num_answers` are all there; of those below, only some.
    """
    scored = top
    if query.merge and len(top):
        # Each video has an answer as good as its best segment, so the best `num_answers` answers are in as many videos
        # at most. Their lower windows are looked up: they may belong to an answer.
        video_ids = dict.fromkeys(top.rows["video_id"].to_pylist())
        scored = scan.of_videos(list(video_ids)[:num_answers])
    rows_of: dict[str, list[int]] = {}
    for row, video_id in enumerate(scored.rows["video_id"].to_pylist()):
        rows_of.setdefault(video_id, []).append(row)
    # A video that is not here may be better than whatever scores below the last of `top`.
    threshold = float(top.scores[-1]) - ROUNDING if len(top) else 0.0
    if len(rows_of) >= num_answers:
        threshold = max(threshold, float(scored.scores[list(rows_of.values())[num_answers - 1][0]]))
    starts, ends = scored.rows["start_s"].to_numpy(), scored.rows["end_s"].to_numpy()
    answers: list[Answer] = []
    for rows in rows_of.values():
        if query.merge:
            merged = merge_windows(starts[rows], ends[rows], scored.scores[rows], baseline, threshold)
            found = [answer._replace(best=rows[answer.best]) for answer in merged]
        else:
            found = [Answer(row, float(starts[row]), float(ends[row])) for row in rows]
        answers += found[:1] if query.per_video else found
    # rows are best first, and so are answers by row
    return scored, sorted(
        (answer for answer in answers if scored.scores[answer.best] >= threshold), key=lambda answer: answer.best
    )


def merge_windows(
    starts: np.ndarray, ends: np.ndarray, scores: np.ndarray, baseline: float, threshold: float = -np.inf
) -> list[Answer]:
    """The answers of one video, best first (of equal scores the earlier, then the shorter).

    starts, ends (s), scores: [n], in any order. baseline: the score of what has nothing to do with the query.
    threshold: answers that score lower are left out.
    """
    lengths = ends - starts
    free = np.ones(len(scores), dtype=bool)
    answers = []
    for best in np.lexsort((ends, starts, -scores)):
        if scores[best] < threshold:
            break
        if not free[best]:
            continue
        start_s, end_s = starts[best], ends[best]
        near = free & (scores >= baseline + NEAR * (scores[best] - baseline))
        near &= np.abs(lengths - lengths[best]) <= SAME_LENGTH * lengths[best]
        while (touching := near & (starts < end_s) & (ends > start_s)).any():
            start_s, end_s = min(start_s, starts[touching].min()), max(end_s, ends[touching].max())
            near &= ~touching
        shared = np.minimum(ends, end_s) - np.maximum(starts, start_s)
        free &= shared < COVERED * np.minimum(lengths, end_s - start_s)
        free[best] = False
        answers.append(Answer(int(best), float(start_s), float(end_s)))
    return answers
