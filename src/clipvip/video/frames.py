"""What comes out of an open file: frames with their times, the picture in each, and what there is to know of all.

H x W pixels (after rotation: pictures are upright).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

import av
import numpy as np

from clipvip.video.container import OpenVideo, Source, decode_error, open_video
from clipvip.video.index import PacketIndex, packet_index
from clipvip.video.sampling import EPSILON_S
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


Length: TypeAlias = tuple[int | None, float | None, tuple[float, ...] | None]  # frames, seconds, keyframes' seconds

PROBE_BYTES = 64 * 2**20  # Read in half a second from a slow disk; of larger files only the header is probed.


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What `probe` finds out. `exact`: `num_frames` is what a sequential decode yields, else it is an estimate.

    duration_s: of the pictures if `exact`, else as the header has it, which may mean a longer sound track.
    width, height: as shown, with square pixels and upright. rotation: degrees counter-clockwise (0, 90, 180, 270) that
    were applied for it. pixel_aspect: width by height of the stored pixels.
    damage: why only a part of the file can be decoded, as far as that was found out without decoding more.
    keyframes_s: their seconds after the first frame. fps: the average. None: unknown, mostly for want of a `scan`.
    """

    duration_s: float | None
    num_frames: int | None
    fps: float | None
    width: int
    height: int
    rotation: int
    codec: str
    keyframes_s: tuple[float, ...] | None
    exact: bool
    pixel_aspect: float = 1.0
    damage: str | None = None

    def fit(self, short_side: int | None, long_side: int) -> tuple[int, int]:
        """Height and width of a small picture of it: neither side is longer than asked for (None: as it is)."""
        scale = 1.0 if short_side is None else short_side / min(self.height, self.width)
        scale = min(scale, long_side / max(self.height, self.width))
        return max(round(self.height * scale), 1), max(round(self.width * scale), 1)


def probe(source: Source, *, scan: bool = False) -> VideoInfo:
    """Length, size, codec and keyframes of a video. `source` as in `read_frames`.

    The header and the first frame (which holds the rotation) are always read; the packets too, which makes the numbers
    exact, where they can be trusted (most mp4, mkv, webm) and are known already or 64 MiB at most. `scan` makes the
    numbers exact for any file, at the price of reading it as a whole and, without trusted packets, decoding it; only
    decoding finds damage within the pictures.

    Raises: VideoDecodeError; InputError for what is no source.
    """
    with open_video(source, threads=1) as video:
        index = packet_index(video, max_bytes=math.inf if scan else PROBE_BYTES)
        _, frame = next(timed_frames(video))
        if frame.interlaced_frame:
            index = None  # a packet may hold half a frame
        if index is not None:
            length = _length_by_index(index)
        elif scan:
            video.reopen()
            length = _length_by_decoding(video)
        else:
            length = _length_by_header(video)
        height, width = display_size(frame, video.pixel_aspect)
        rate = video.stream.average_rate
        return VideoInfo(
            num_frames=length[0],
            duration_s=length[1],
            fps=float(rate) if rate else None,
            width=width,
            height=height,
            rotation=round(frame.rotation / 90) * 90 % 360,
            codec=video.stream.codec_context.codec.canonical_name,
            keyframes_s=length[2],
            exact=scan or index is not None,
            pixel_aspect=float(video.pixel_aspect),
            damage=video.damage,
        )


def _length_by_index(index: PacketIndex) -> Length:
    """Of what is shown: hidden frames, keyframes too, do not count."""
    keys_s = index.times_s[np.isin(index.pts, index.keys)]
    return len(index.pts), round(index.until_s, 6), tuple(keys_s.tolist())


def _length_by_decoding(video: OpenVideo) -> Length:
    """Frame by frame, to the end."""
    num_frames, end_s, keys_s = 0, 0.0, []
    for time_s, frame in timed_frames(video):
        num_frames += 1
        end_s = max(end_s, time_s + shown_s(video, frame))
        if frame.key_frame:
            keys_s.append(time_s)
    return num_frames, round(end_s, 6), tuple(keys_s)


def _length_by_header(video: OpenVideo) -> Length:
    """As far as the header goes; where it does not count frames, as many as fit its duration."""
    stream, duration_s = video.stream, None
    if stream.duration:
        duration_s = float(stream.duration * stream.time_base)
    elif video.container.duration:
        duration_s = video.container.duration / av.time_base
    num_frames = stream.frames or None
    if num_frames is None and duration_s is not None and stream.average_rate:
        num_frames = max(1, round(duration_s * float(stream.average_rate)))
    return num_frames, duration_s, None
