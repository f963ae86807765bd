"""Windows of a video that answer the same question are one answer. Pure functions of times and scores.

The rule, best window first: it is an answer, together with those windows of its own length that overlap it (or each
other, in a chain) and are nearly as good. Whatever shares half of its time with the answer, of any length, belongs to
it, and is no answer of its own. So the best window decides on the scale: a moment found by a short window is not blown
up by the long ones around it, and an event longer than the windows is found in full.

Shapes: n windows of one video.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NEAR = 0.85
"""Nearly as good: this share of the best window's height above the ground, a query's mean over the library."""
SAME_LENGTH = 0.05
"""Lengths that differ by less than this share are the same: the last window of a video, rounding."""
COVERED = 0.5
"""The share of the shorter one's time from which on a window belongs to an answer."""


class Answer(NamedTuple):
    """The best window's number, and from when to when."""

    best: int
    start_s: float
    end_s: float


def merge_windows(
    starts: np.ndarray, ends: np.ndarray, scores: np.ndarray, ground: float, least: float = -np.inf
) -> list[Answer]:
    """The answers of one video, best first (of equal scores the earlier, then the shorter).

    starts, ends (s), scores: [n], in any order. ground: the score of what has nothing to do with the query. least:
    answers that score lower are left out.
    """
    lengths = ends - starts
    free = np.ones(len(scores), dtype=bool)
    answers = []
    for best in np.lexsort((ends, starts, -scores)):
        if scores[best] < least:
            break
        if not free[best]:
            continue
        start_s, end_s = starts[best], ends[best]
        near = free & (scores >= ground + NEAR * (scores[best] - ground))
        near &= np.abs(lengths - lengths[best]) <= SAME_LENGTH * lengths[best]
        while (touching := near & (starts < end_s) & (ends > start_s)).any():
            start_s, end_s = min(start_s, starts[touching].min()), max(end_s, ends[touching].max())
            near &= ~touching
        shared = np.minimum(ends, end_s) - np.maximum(starts, start_s)
        free &= shared < COVERED * np.minimum(lengths, end_s - start_s)
        free[best] = False
        answers.append(Answer(int(best), float(start_s), float(end_s)))
    return answers
