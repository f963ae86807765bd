"""Where a picture has nothing to do with the one before: a light detector of hard cuts, fed frame by frame.

Fades and dissolves are not seen as cuts.
"""

from __future__ import annotations

from collections import deque

import numpy as np

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
