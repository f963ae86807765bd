"""What comes out of an open file: frames with their times, and the picture in each, upright and scaled.

H x W pixels (after rotation).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

import av
import numpy as np

from clipvip.video.container import OpenVideo, decode_error
from clipvip.video.cutting import EPSILON_S
from clipvip.video.timeline import TimedFrame, shown_s, timed_frames

Size: TypeAlias = tuple[int, int] | int | None
TimeRange: TypeAlias = tuple[float, float]

SQUARE = Fraction(1)
MAX_ASPECT = 64
"""Long side by short side of pictures that are scaled to a short side: a strip of 16,384 x 2 pixels is no reason to
make one of 1.8 million x 224."""


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A frame in the decoder's own pixel format; it becomes an array when asked."""

    video: OpenVideo
    raw: Any
    size: Size

    def rgb(self) -> np.ndarray:
        """The picture as it is shown, scaled: uint8 [H, W, 3]. Raises: VideoDecodeError."""
        return shown_picture(self.video, self.raw, self.size)


def frames_within(video: OpenVideo, time_range: TimeRange | None) -> Iterator[TimedFrame]:
    """Frames with start_s <= t < end_s, or else the one shown at start_s, each with its t."""
    start_s, end_s = time_range or (0.0, float("inf"))
    shown, empty = None, True
    shown_until_s = 0.0
    for time_s, frame in timed_frames(video, start_s):
        if time_s < start_s - EPSILON_S:
            shown, shown_until_s = (time_s, frame), time_s + shown_s(video, frame)
        elif time_s < end_s - EPSILON_S:
            empty = False
            yield time_s, frame
        else:
            break
    else:
        if empty:
            check_shown(video, (start_s, end_s), shown_until_s)
    if empty and shown is not None:
        yield shown


def places_within(video: OpenVideo, times_s: np.ndarray, until_s: float, time_range: TimeRange | None) -> slice:
    """`frames_within` by the times of all frames: which places of them. until_s: the last one is shown so long."""
    if time_range is None:
        return slice(0, len(times_s))
    first, last = np.searchsorted(times_s, (time_range[0] - EPSILON_S, time_range[1] - EPSILON_S)).tolist()
    if first == last == len(times_s):
        check_shown(video, time_range, until_s)
    return slice(first, last) if first < last else slice(first - 1, first)


def check_shown(video: OpenVideo, time_range: TimeRange, shown_until_s: float) -> None:
    if time_range[0] >= shown_until_s - EPSILON_S:
        reason = f"the range {time_range[0]:g} to {time_range[1]:g} s lies beyond the end ({shown_until_s:.3f} s)"
        raise decode_error(video.name, reason, "correct the range or leave it out")


def stacked(video: OpenVideo, frames: Sequence[Any], size: Size) -> np.ndarray:
    """Frames to uint8 [T, H, W, 3]; one that is there twice is converted once."""
    pictures = {id(frame): frame for frame in frames}
    pictures = {key: shown_picture(video, frame, size) for key, frame in pictures.items()}
    return stack_pictures([pictures[id(frame)] for frame in frames], size)


def stack_pictures(pictures: Sequence[np.ndarray], size: Size) -> np.ndarray:
    """Pictures to uint8 [T, H, W, 3]. Where the frame size changes in the file, they are made alike.

    Pictures with the same short side (an int `size`) are cropped to the centre that all have; others are scaled to the
    first one's size.
    """
    if len({picture.shape for picture in pictures}) > 1:
        if isinstance(size, int):
            height, width = (min(picture.shape[axis] for picture in pictures) for axis in (0, 1))
            pictures = [_centre(picture, height, width) for picture in pictures]
        else:
            height, width = pictures[0].shape[:2]
            pictures = [_scaled(picture, height, width) for picture in pictures]
    return np.stack(pictures)


def display_size(frame: Any, pixel_aspect: Fraction) -> tuple[int, int]:
    """Height and width at which a frame is shown: with square pixels, upright."""
    height, width = frame.height, _square_width(frame, pixel_aspect)
    return (width, height) if orientation(frame)[0] else (height, width)


def shown_picture(video: OpenVideo, frame: Any, size: Size) -> np.ndarray:
    """A frame as it is shown, uint8 [H, W, 3]. Raises: VideoDecodeError if FFmpeg cannot convert its colours."""
    try:
        return to_rgb(frame, size, video.pixel_aspect)
    except (av.FFmpegError, ValueError) as error:
        colours = f"{frame.format.name}, colour matrix {int(frame.colorspace)}"
        raise decode_error(video.name, f"its frames ({colours}) cannot be converted to RGB") from error


def to_rgb(frame: Any, size: Size, pixel_aspect: Fraction = SQUARE) -> np.ndarray:
    """A frame as it is shown: upright, with square pixels, on white where it is transparent. uint8 [H, W, 3]."""
    transposed, rows, columns = orientation(frame)
    height, width = frame.height, _square_width(frame, pixel_aspect)
    if size is not None:
        if transposed:
            height, width = width, height
        height, width = size if isinstance(size, tuple) else _with_short_side(height, width, size)
        if transposed:
            height, width = width, height
    frame = opaque(frame)
    # One scaler thread a frame: loaders and bulk jobs already run one process a core.
    if size is None and (height, width) == (frame.height, frame.width):
        rgb = frame.to_ndarray(format="rgb24", threads=1)
    else:
        rgb = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC", threads=1)
    if transposed:
        rgb = rgb.transpose(1, 0, 2)
    return np.ascontiguousarray(rgb[::rows, ::columns])


def orientation(frame: Any) -> tuple[bool, int, int]:
    """Whether rows and columns are exchanged, and then the steps (1 or -1) in which each are read."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, 1, 1
    # It maps a pixel to x' = a x + c y, y' = b x + d y: one of the eight ways to lay down a picture.
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    transposed = abs(b) > abs(a)
    if transposed:
        a, d = c, b
    return transposed, -1 if d < 0 else 1, -1 if a < 0 else 1


def _square_width(frame: Any, pixel_aspect: Fraction) -> int:
    return frame.width if pixel_aspect == 1 else max(1, round(frame.width * pixel_aspect))


def _with_short_side(height: int, width: int, short: int) -> tuple[int, int]:
    """Sides rounded down; a side of more than MAX_ASPECT times the short one is made that long."""
    longest = short * MAX_ASPECT
    by = min(height, width)
    return min(short * height // by, longest), min(short * width // by, longest)


def opaque(frame: Any) -> Any:
    """A frame itself; or, if it has transparency, on white as RGB, without its side data."""
    if not _has_alpha(frame.format.name):
        return frame
    rgba = frame.to_ndarray(format="rgba", threads=1)
    alpha = rgba[..., 3:].astype(np.uint16)
    rgb = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return av.VideoFrame.from_ndarray(rgb.astype(np.uint8), format="rgb24")


@lru_cache(maxsize=256)
def _has_alpha(pixel_format: str) -> bool:
    return pixel_format == "pal8" or any(component.is_alpha for component in av.VideoFormat(pixel_format).components)


def _centre(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


def _scaled(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC", threads=1)
