"""Which parts of a video are looked at, each as a clip of its own: pure functions of durations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import TypeAlias

import numpy as np

from clipvip.errors import InputError, UsageError

Spans: TypeAlias = list[tuple[float, float]]
"""(start_s, end_s) of parts of a video."""

EPSILON_S = 1e-6
"""A start of 3 * 0.1 s means the frame at 0.3 s."""
STILL_S = 1.0
"""A frame that is shown for longer makes no more windows of the same picture."""
STRIDE_SHARE = 0.5
"""Of a window, from one to the next: an event shorter than half a window is whole in one of them."""


def cut_segments(duration_s: float, window_s: float, stride_s: float) -> Spans:
    """Parts of a video, in order; together they cover all of it.

    A video no longer than `window_s` is one part. A longer one is cut into windows of that length, one every
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


def cut_where_frames_are(times_s: np.ndarray, until_s: float, window_s: float, stride_s: float) -> Spans:
    """Return those of `cut_segments(until_s, ...)` in which there are frames, without listing the others.

    A frame counts until the next one, for STILL_S at most: a file's clock may jump by years, or say that its last frame
    is shown so long. times_s: when the frames begin, ascending.
    Raises: as `cut_segments`.
    """
    check_windows(window_s, stride_s)
    if not 0 < until_s < float("inf"):
        raise InputError(f"until_s={until_s}: must be positive and finite")
    if until_s <= window_s:
        return [(0.0, until_s)]
    last_start_s = until_s - window_s
    ends_s = np.minimum(np.append(times_s[1:], until_s), times_s + STILL_S)
    # The windows that a frame may be in, one more on each side for rounding, less those of frames before it.
    first = np.maximum(np.floor((times_s - window_s) / stride_s), 0).astype(np.int64)
    stop = np.maximum.accumulate(np.floor(ends_s / stride_s).astype(np.int64) + 2)
    first[1:] = np.maximum(first[1:], stop[:-1])
    numbers = np.concatenate([np.arange(a, b) for a, b in zip(first.tolist(), stop.tolist(), strict=True) if a < b])
    starts = numbers * stride_s
    starts = starts[starts < last_start_s].tolist()
    spans = np.array([*((start_s, start_s + window_s) for start_s in starts), (last_start_s, until_s)])
    latest = np.searchsorted(times_s, spans[:, 1] - EPSILON_S) - 1  # the last frame that begins before a window ends
    filled = (latest >= 0) & (ends_s[latest] > spans[:, 0] + EPSILON_S)
    return [(start_s, end_s) for start_s, end_s in spans[filled].tolist()]


def check_windows(window_s: float, stride_s: float) -> None:
    """Raises: UsageError unless 0 < stride_s <= window_s (a wider stride would leave gaps)."""
    if not 0 < stride_s <= window_s < float("inf"):
        raise UsageError(f"window of {window_s:g} s every {stride_s:g} s: choose 0 < stride <= window")


@dataclass(frozen=True, slots=True)
class Scales:
    """Windows of one or several lengths, longest first, and how far apart those of each length begin.

    Raises: UsageError for impossible windows, and for one that is there twice.
    """

    windows_s: tuple[float, ...]
    strides_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(set(self.windows_s)) == len(self.windows_s) == len(self.strides_s) > 0:
            raise UsageError(f"{self}: give each window once, and a stride for each or none at all")
        for window_s, stride_s in zip(self.windows_s, self.strides_s, strict=True):
            check_windows(window_s, stride_s)

    @classmethod
    def of(cls, windows_s: float | Sequence[float], strides_s: float | Sequence[float] | None = None) -> Scales:
        """In any order; strides that are left out are half a window."""
        windows = _several(windows_s)
        strides = [window_s * STRIDE_SHARE for window_s in windows] if strides_s is None else _several(strides_s)
        if len(windows) != len(strides):
            return cls(tuple(windows), tuple(strides))  # which tells what is wrong
        pairs = sorted(zip(windows, strides, strict=True), reverse=True)
        return cls(tuple(window_s for window_s, _ in pairs), tuple(stride_s for _, stride_s in pairs))

    def cut(self, duration_s: float) -> Spans:
        """The windows of a video, scale by scale; a part that several scales have in common is there once."""
        scales = zip(self.windows_s, self.strides_s, strict=True)
        parts = (part for window_s, stride_s in scales for part in cut_segments(duration_s, window_s, stride_s))
        return list(dict.fromkeys(parts))

    def cut_where_frames_are(self, times_s: np.ndarray, until_s: float) -> Spans:
        """Those of them in which there are frames (see the function of this name)."""
        scales = zip(self.windows_s, self.strides_s, strict=True)
        parts = (part for scale in scales for part in cut_where_frames_are(times_s, until_s, *scale))
        return list(dict.fromkeys(parts))

    def __str__(self) -> str:
        """As people read it: "windows of 12 and 6 s every 6 and 3 s"."""
        windows, strides = (" and ".join(f"{x:g}" for x in xs) for xs in (self.windows_s, self.strides_s))
        return f"windows of {windows} s every {strides} s"


def _several(numbers: float | Sequence[float]) -> list[float]:
    return [float(numbers)] if isinstance(numbers, int | float) else [float(number) for number in numbers]
