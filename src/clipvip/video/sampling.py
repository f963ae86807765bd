"""Which frames of a clip to look at: pure functions of counts. `total`: the frames a sequential decode yields."""

from __future__ import annotations

import numpy as np


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
