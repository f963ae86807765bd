"""What comes out of an open file: frames with their times, and the picture in each, upright and scaled.

H x W pixels (after rotation).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import av
import numpy as np

from clipvip.video.container import OpenVideo, decode_error
from clipvip.video.index import INDEXED

Size: TypeAlias = tuple[int, int] | int | None
TimeRange: TypeAlias = tuple[float, float]

SEEK_FROM_S = 5.0  # Decoding a few seconds costs less than a seek that has to be taken back.
EPSILON_S = 1e-6  # A start of 3 * 0.1 s means the frame at 0.3 s.


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A frame in the decoder's own pixel format; it becomes an array when asked."""

    raw: Any
    size: Size

    def rgb(self) -> np.ndarray:
        """The rotated, scaled picture: uint8 [H, W, 3]."""
        return to_rgb(self.raw, self.size)


def frames_within(video: OpenVideo, time_range: TimeRange | None) -> Iterator[Any]:
    """Frames with start_s <= t < end_s, or else the one shown at start_s."""
    start_s, end_s = time_range or (0.0, float("inf"))
    shown, shown_until_s, empty = None, 0.0, True
    for time_s, frame in timed_frames(video, start_s):
        if time_s < start_s - EPSILON_S:
            shown, shown_until_s = frame, time_s + shown_s(video, frame)
        elif time_s < end_s - EPSILON_S:
            empty = False
            yield frame
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


def timed_frames(video: OpenVideo, start_s: float = 0.0) -> Iterator[tuple[float, Any]]:
    """All frames with their seconds after the first one; those well before `start_s` may be left out."""
    num_decoded = 0
    try:
        origin, frames = _decoding_from(video, start_s)
        for frame in frames:
            if frame.pts is None or origin is None:
                yield num_decoded * video.step_s, frame
            else:
                yield float((frame.pts - origin) * frame.time_base), frame
            num_decoded += 1
    except (av.FFmpegError, OSError) as error:  # OSError: a file object that cannot be read
        reason = f"decoding breaks off after {num_decoded} frames ({error.strerror or error})"
        raise decode_error(video.name, reason) from error
    if num_decoded == 0:
        raise decode_error(video.name, "no decodable frame")
    # FFmpeg takes a file that was cut between two frames, or two blocks, for one that ends there.
    if video.cut_short:
        raise decode_error(video.name, f"the file was cut short: it breaks off after {num_decoded} frames")


def shown_s(video: OpenVideo, frame: Any) -> float:
    """How long a frame is shown."""
    return float(frame.duration * frame.time_base) if frame.duration else video.step_s


def check_shown(video: OpenVideo, time_range: TimeRange, shown_until_s: float) -> None:
    if time_range[0] >= shown_until_s - EPSILON_S:
        reason = f"the range {time_range[0]:g} to {time_range[1]:g} s lies beyond the end ({shown_until_s:.3f} s)"
        raise decode_error(video.name, reason, "correct the range or leave it out")


def _decoding_from(video: OpenVideo, start_s: float) -> tuple[int | None, Iterator[Any]]:
    """The first frame's timestamp, and frames from the last keyframe before `start_s` on, or from the first one."""
    container, stream = video.container, video.stream
    frames = container.decode(stream)
    first = next(frames, None)
    if first is None:
        return None, iter(())
    if start_s < SEEK_FROM_S or first.pts is None or container.format.name not in INDEXED:
        return first.pts, itertools.chain([first], frames)

    wanted = first.pts + int(start_s / stream.time_base)
    for target in (wanted, first.pts):
        container.seek(target, stream=stream)
        frames = container.decode(stream)
        landed = next(frames, None)
        if landed is not None and landed.key_frame and landed.pts is not None and landed.pts <= wanted:
            break  # Else there are frames between `wanted` and here, or they lack their references: start over.
    return first.pts, itertools.chain([] if landed is None else [landed], frames)


def stacked(name: str, frames: Sequence[Any], size: Size) -> np.ndarray:
    """Frames to uint8 [T, H, W, 3]; one that stands there twice is converted once."""
    pictures = {id(frame): frame for frame in frames}
    pictures = {key: to_rgb(frame, size) for key, frame in pictures.items()}
    return stack_pictures(name, [pictures[id(frame)] for frame in frames])


def stack_pictures(name: str, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 [T, H, W, 3]. Raises: VideoDecodeError if they differ in size."""
    if len({picture.shape for picture in pictures}) > 1:
        raise decode_error(name, "the frame size changes on the way", "ask for a fixed size=(H, W)")
    return np.stack(pictures)


def to_rgb(frame: Any, size: Size) -> np.ndarray:
    # The display matrix maps a pixel to x' = a x + c y, y' = b x + d y: one of the eight ways to lay down a picture.
    a, b, c, d = 1, 0, 0, 1
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    transposed = abs(b) > abs(a)
    # One scaler thread a frame: loaders and bulk jobs already run one process a core.
    if size is None:
        rgb = frame.to_ndarray(format="rgb24", threads=1)
    else:
        height, width = (frame.width, frame.height) if transposed else (frame.height, frame.width)
        if isinstance(size, tuple):
            height, width = size
        else:
            short = min(height, width)
            height, width = size * height // short, size * width // short
        if transposed:
            height, width = width, height
        rgb = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC", threads=1)
    if transposed:
        rgb, a, d = rgb.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
