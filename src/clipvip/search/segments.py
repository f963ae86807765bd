"""Which parts of a video are indexed: pure functions of its duration."""

from __future__ import annotations

from itertools import count, takewhile

from clipvip.errors import InputError, UsageError

WINDOW_S = 12.0
STRIDE_SHARE = 0.5


def cut_segments(
    duration_s: float, window_s: float = WINDOW_S, stride_s: float = WINDOW_S * STRIDE_SHARE
) -> list[tuple[float, float]]:
    """The segments (start_s, end_s) of a video, in order; together they cover all of it.

    A video no longer than `window_s` is one segment. A longer one is cut into windows of that length, one every
    `stride_s`; the last one ends with the video, so none is shorter than the others.

    Raises: UsageError unless 0 < stride_s <= window_s; InputError if the duration is not positive and finite.
    """
    check_windows(window_s, stride_s)
    if not 0 < duration_s < float("inf"):
        raise InputError(f"duration_s={duration_s}: must be positive and finite")
    if duration_s <= window_s:
        return [(0.0, duration_s)]
    last_start_s = duration_s - window_s
    starts = takewhile(lambda start_s: start_s < last_start_s, (i * stride_s for i in count()))
    return [*((start_s, start_s + window_s) for start_s in starts), (last_start_s, duration_s)]


def check_windows(window_s: float, stride_s: float) -> None:
    """Raises: UsageError unless 0 < stride_s <= window_s (a wider stride would leave gaps)."""
    if not 0 < stride_s <= window_s < float("inf"):
        raise UsageError(f"window of {window_s:g} s every {stride_s:g} s: choose 0 < stride <= window")
