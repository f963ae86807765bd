"""Folders of frame images read as videos, as the released code's data with `num_frame` are.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clipvip.data.media import IMAGE_EXTENSIONS
from clipvip.errors import VideoDecodeError
from clipvip.video import read_image

_NUMBER = re.compile(r"(\d+)")


def frame_files(folder: Path) -> list[Path]:
    """The images of a folder in the order of the numbers in their names: frame 1000 comes after frame 999.

    Raises: VideoDecodeError if there is none.
    """
    try:
        files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_EXTENSIONS and path.is_file()]
    except OSError as error:
        raise VideoDecodeError(f"{folder}: cannot be read ({error.strerror})") from error
    if not files:
        raise VideoDecodeError(f"{folder}: a folder without images; a folder of frames has one image for each frame")
    return sorted(
        files, key=lambda path: [int(part) if part.isdecimal() else part for part in _NUMBER.split(path.name)]
    )


def read_frame_folder(
    folder: Path, choose: Callable[[int], np.ndarray], time_range: tuple[float, float] | None = None
) -> np.ndarray:
    """The frames that `choose` names of so many, uint8 [T, H, W, 3].

    Raises: VideoDecodeError for a damaged image, images of several sizes, or a time range: frames have no times.
    """
    if time_range is not None:
        raise VideoDecodeError(
            f"{folder}: a folder of frames has no times, but its clip is {time_range[0]} to {time_range[1]} s of it; "
            "leave out start_s and end_s, or make a video of the frames"
        )
    files = frame_files(folder)
    chosen, where = np.unique(choose(len(files)), return_inverse=True)
    frames = [read_image(files[index]) for index in chosen.tolist()]
    sizes = {frame.shape for frame in frames}
    if len(sizes) > 1:
        raise VideoDecodeError(f"{folder}: frames of {len(sizes)} sizes; a video has one")
    return np.stack(frames)[where]
