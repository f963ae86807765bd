"""Which frames, windows and shots of a video to look at: pure functions of counts, durations and small grey pictures.

`total`: the number of frames that a sequential decode yields.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import TypeAlias

import numpy as np

from clipvip.errors import InputError, UsageError


def uniform_indices(total: int, n: int) -> np.ndarray:
    """Evenly spaced frame indices, first and last frame included.

    Returns: int64 [n], non-decreasing; frames repeat when total < n.
    Raises: ValueError if either count is not positive.
    Source: CLIP-ViP, section 5.1 (uniform sampling).
    """
    _check_counts(total, n)
    return _floor_linspace(0, total - 1, n)


def jittered_indices(total: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Evenly spaced between a random start and a random end: the sampling of the released code's training.

    Start and end each move by at most one sampling interval, int(total / (n - 1)), from the clip's ends; by
    less where the two could cross (n of 2 or 3), so that time never runs backwards. A single frame is drawn
    from the whole clip.

    Returns: int64 [n], non-decreasing; frames repeat when total < n.
    Raises: ValueError if either count is not positive.
    Source: CLIP-ViP, released training data set.
    """
    _check_counts(total, n)
    if n == 1:
        return rng.integers(total, size=1)
    interval = min(total // (n - 1), (total - 1) // 2)
    start = int(rng.integers(0, interval, endpoint=True))
    end = int(rng.integers(total - 1 - interval, total - 1, endpoint=True))
    return jittered_from(start, end, n)


def jittered_from(start: int, end: int, n: int) -> np.ndarray:
    """The deterministic part of `jittered_indices`: int64 [n] from `start` to `end`, both included (n = 1: `start`).

    Raises: ValueError unless 0 <= start <= end and n is positive.
    """
    if not 0 <= start <= end:
        raise ValueError(f"start and end must satisfy 0 <= start <= end, not {start} and {end}")
    _check_counts(end + 1, n)
    return _floor_linspace(start, end, n)


def middle_index(total: int) -> int:
    """The frame that auxiliary captions describe: int(total / 2).

    Raises: ValueError if `total` is not positive.
    Source: CLIP-ViP, released captioning script.
    """
    _check_counts(total, 1)
    return total // 2


def _floor_linspace(start: int, end: int, n: int) -> np.ndarray:
    # Not integer arithmetic: the released code floors the float grid, which lies one below it here and there.
    return np.linspace(start, end, n).astype(np.int64)


def _check_counts(total: int, n: int) -> None:
    if total < 1 or n < 1:
        raise ValueError(f"a clip needs at least one frame and a sample too, not total={total} and n={n}")


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
        return _drop_repeats(parts)

    def cut_where_frames_are(self, times_s: np.ndarray, until_s: float) -> Spans:
        """Those of them in which there are frames (see the function of this name)."""
        scales = zip(self.windows_s, self.strides_s, strict=True)
        parts = (part for scale in scales for part in cut_where_frames_are(times_s, until_s, *scale))
        return _drop_repeats(parts)

    def __str__(self) -> str:
        """As people read it: "windows of 12 and 6 s every 6 and 3 s"."""
        windows, strides = (" and ".join(f"{x:g}" for x in xs) for xs in (self.windows_s, self.strides_s))
        return f"windows of {windows} s every {strides} s"


def _drop_repeats(parts: Iterable[tuple[float, float]]) -> Spans:
    """Parts that begin and end in the same millisecond are one: lengths such as 0.8 and 0.4 s meet only nearly."""
    return list({(round(start_s * 1000), round(end_s * 1000)): (start_s, end_s) for start_s, end_s in parts}.values())


def _several(numbers: float | Sequence[float]) -> list[float]:
    return [float(numbers)] if isinstance(numbers, int | float) else [float(number) for number in numbers]


LUMA_SIZE = (36, 64)
"""Height and width of the grey pictures that are compared: motion is small in them, a cut is not."""
MIN_CHANGE = 12.0
"""Grey levels of 255 by which pixels change at a cut at least, on average."""
TIMES_USUAL = 3.0
"""And by so many times the change between the frames before it: what moves fast is no cut."""
USUAL_OF = 12
"""Frames that tell what change is usual."""
MIN_SHOT_S = 0.6
"""Cuts come no closer: a flash is none."""


class CutDetector:
    """Tells of frame after frame whether a shot begins with it."""

    def __init__(self) -> None:
        self._before: np.ndarray | None = None
        self._changes: deque[float] = deque(maxlen=USUAL_OF)
        self._shot_from_s = 0.0

    def sees(self, time_s: float, luma: np.ndarray) -> bool:
        """luma: uint8 [H, W], all of the same size."""
        picture = luma.astype(np.int16)
        before, self._before = self._before, picture
        if before is None:
            self._shot_from_s = time_s
            return True
        change = float(np.abs(picture - before).mean())
        usual = max(float(np.mean(self._changes)), 1.0) if self._changes else 1.0
        self._changes.append(change)
        if change < max(MIN_CHANGE, TIMES_USUAL * usual) or time_s - self._shot_from_s < MIN_SHOT_S:
            return False
        self._changes.clear()
        self._shot_from_s = time_s
        return True
