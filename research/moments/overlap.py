"""Moment retrieval: is the right part of the right video among the first hits?

A hit is right if it lies in the video of the moment asked for and overlaps it by enough: temporal intersection over
union (IoU), as TALL, DiDeMo and TVR measure it. R@K at IoU m is the share of queries with a right one of K hits.

Shapes: N, M spans (start_s, end_s).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from clipvip.errors import InputError

NOT_FOUND = float(np.iinfo(np.int32).max)
"""The rank of a moment that is not among the hits: a number, so that recalls and bootstraps need no exception."""


class Moment(NamedTuple):
    """A part of a video. video: anything that names it, the same way everywhere."""

    video: str
    start_s: float
    end_s: float


def temporal_iou(spans_a: ArrayLike, spans_b: ArrayLike) -> np.ndarray:
    """Length of the intersection over that of the union of every pair, float64 [N, M]; spans: [N, 2] and [M, 2].

    Spans of no length overlap nothing. Raises: InputError for another shape, NaN, or an end before its start.
    """
    a, b = _check_spans("spans_a", spans_a)[:, None], _check_spans("spans_b", spans_b)[None]
    shared = np.maximum(np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0]), 0.0)
    united = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - shared
    return np.divide(shared, united, out=np.zeros_like(shared), where=united > 0)


def moment_rank(hits: Sequence[Moment], moment: Moment, min_iou: float) -> float:
    """The rank, from 1, of the first hit (best first) in the moment's video with at least this IoU; else NOT_FOUND."""
    places = [place for place, hit in enumerate(hits) if hit.video == moment.video]
    if not places:
        return NOT_FOUND
    right = temporal_iou([hits[place][1:] for place in places], [moment[1:]])[:, 0] >= min_iou
    return float(places[int(right.argmax())] + 1) if right.any() else NOT_FOUND


def best_iou(spans: ArrayLike, moments: ArrayLike) -> np.ndarray:
    """The IoU of each moment [M, 2] with the span [N, 2] that fits it best, [M]: the limit that windows set."""
    fits = temporal_iou(spans, moments)
    return fits.max(axis=0) if len(fits) else np.zeros(fits.shape[1])


def _check_spans(name: str, spans: ArrayLike) -> np.ndarray:
    values = np.asarray(spans, dtype=np.float64)
    if not values.size:
        return np.empty((0, 2))
    if values.ndim != 2 or values.shape[1] != 2:
        raise InputError(f"{name}: shape {values.shape}, expected (number of spans, 2)")
    wrong = ~(values[:, 1] >= values[:, 0])  # NaN is wrong too
    if wrong.any():
        i = int(wrong.argmax())
        raise InputError(f"{name}[{i}] is {tuple(values[i].tolist())}: expected (start_s, end_s), start before end")
    return values
