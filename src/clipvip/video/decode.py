"""Frames out of media files, through PyAV: always those of a full sequential decode, edit lists applied.

Every failure is one `VideoDecodeError` line: name, reason, way out.

Shapes: T frames, H x W pixels (after rotation).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import av
import numpy as np

from clipvip.errors import InputError
from clipvip.video.container import OpenVideo, Source, decode_error, open_video
from clipvip.video.index import INDEXED, PacketIndex, packet_index
from clipvip.video.plan import decode_planned
from clipvip.video.sampling import uniform_indices

Size: TypeAlias = tuple[int, int] | int | None
TimeRange: TypeAlias = tuple[float, float]
Length: TypeAlias = tuple[int | None, float | None, tuple[float, ...] | None]  # frames, seconds, keyframes' seconds

SEEK_FROM_S = 5.0  # Decoding a few seconds costs less than a seek that has to be taken back.
SCAN_BYTES = 512 * 2**20  # Larger files are not read as a whole for the frames of a time range.
PROBE_BYTES = 64 * 2**20  # Read in half a second from a slow disk; of larger files only the header is probed.
SPARE_BYTES = 256 * 2**20  # Decoded frames kept in case they turn out to be wanted.
EPSILON_S = 1e-6  # A start of 3 * 0.1 s means the frame at 0.3 s.


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What `probe` finds out. `exact`: `num_frames` is what a sequential decode yields, else it is an estimate.

    duration_s: of the pictures if `exact`, else as the header has it, which may mean a longer sound track.
    rotation: degrees counter-clockwise (0, 90, 180, 270), already applied in `width` and `height`.
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


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A frame in the decoder's own pixel format; it becomes an array when asked."""

    raw: Any
    size: Size

    def rgb(self) -> np.ndarray:
        """The rotated, scaled picture: uint8 [H, W, 3]."""
        return _to_rgb(self.raw, self.size)


def read_frames(
    source: Source,
    indices: Sequence[int] | np.ndarray | Callable[[int], np.ndarray] | None = None,
    *,
    num_frames: int = 12,
    time_range: TimeRange | None = None,
    size: Size = None,
    threads: int = 1,
) -> np.ndarray:
    """Frames of a video: those of a full sequential decode, then rotated, then scaled.

    `source`: a path, the file's content as bytes, or a binary file object with read, seek and tell, which is rewound,
    stays open and is left anywhere. `indices` count from the start of `time_range`; a function gets the number of
    frames and returns indices (it is called with the header's count, and again if that was wrong). By default:
    `num_frames` uniform ones, or the only frame where there is just one. `time_range` (start_s, end_s) is in seconds
    after the first frame and means the frames with start_s <= t < end_s, or, if there is none, the frame shown at
    start_s. `size`: None for the file's own, (H, W), or the length of the shorter side; the decoder scales (bicubic).

    The file's display matrix (rotation, mirroring) is applied, alpha is dropped, and HDR (PQ, HLG) is converted to
    8 bits as if it were SDR, without tone mapping. A file that was cut short still gives what stands before the cut;
    reading on is an error for mp4, mkv, webm and avi, while the others, and mkv and webm recorded live, do not say how
    long they should be: one that FFmpeg reads without an error counts as whole.

    Returns: uint8 [T, H, W, 3], RGB.
    Raises: VideoDecodeError if the file cannot be read to the last wanted frame; InputError for impossible arguments.
    """
    _check_arguments(size, time_range)
    fixed = None if indices is None or callable(indices) else [int(i) for i in indices]

    def choose(total: int) -> list[int]:
        if fixed is not None:
            return fixed
        if callable(indices):
            return [int(i) for i in indices(total)]
        return uniform_indices(total, num_frames if total > 1 else 1).tolist()

    with open_video(source, threads) as video:
        index = packet_index(video, max_bytes=math.inf if time_range is None else SCAN_BYTES)
        if index is not None:
            pts = _pts_within(video, index, time_range)
            chosen = _checked_indices(video.name, choose(len(pts)), len(pts))
            planned = decode_planned(video, index, pts[chosen])
            if planned is not None:
                return _stacked(video.name, [planned[t] for t in pts[chosen].tolist()], size)
            video.reopen()

        header_total = video.stream.frames if time_range is None else 0
        chosen = choose(header_total) if header_total or fixed is not None else []
        spare_bytes = 0 if chosen else SPARE_BYTES
        total, kept = _collect(video, set(chosen), time_range, spare_bytes, stop_early=fixed is not None)
        if fixed is None and total != header_total:
            chosen = choose(total)
        _checked_indices(video.name, chosen, total)
        if not kept.keys() >= set(chosen):
            video.reopen()
            _, kept = _collect(video, set(chosen), time_range, 0, stop_early=True)
        return _stacked(video.name, [kept[i] for i in chosen], size)


def stream_frames(source: Source, *, size: Size = None, threads: int = 1) -> Iterator[tuple[float, DecodedFrame]]:
    """Every frame in turn as (seconds after the first frame, frame); only frames asked for `.rgb()` are converted.

    `source` and pixels as in `read_frames`; a file object is in use until the last frame.
    Raises: VideoDecodeError, also after some frames if the file breaks off; InputError for impossible arguments.
    """
    _check_arguments(size, None)
    with open_video(source, threads) as video:
        for time_s, frame in _timed_frames(video):
            yield time_s, DecodedFrame(frame, size)


def probe(source: Source, *, scan: bool = False) -> VideoInfo:
    """Length, size, codec and keyframes of a video. `source` as in `read_frames`.

    The header and the first frame (which holds the rotation) are always read; the packets too, which makes the numbers
    exact, where they can be trusted (mp4, mkv, webm) and are known already or no more than PROBE_BYTES. `scan` makes
    the numbers exact for any file, at the price of reading it as a whole and, without trusted packets, decoding it.

    Raises: VideoDecodeError, with `scan` also for a file that was cut short; InputError for what is no source.
    """
    with open_video(source, threads=1) as video:
        index = packet_index(video, max_bytes=math.inf if scan else PROBE_BYTES)
        _, frame = next(_timed_frames(video))
        if frame.interlaced_frame:
            index = None  # a packet may hold half a frame
        if index is not None:
            length = _told_by_index(index)
        elif scan:
            video.reopen()
            length = _told_by_decoding(video)
        else:
            length = _told_by_header(video)
        rotation = round(frame.rotation / 90) * 90 % 360
        rate = video.stream.average_rate
        return VideoInfo(
            num_frames=length[0],
            duration_s=length[1],
            fps=float(rate) if rate else None,
            width=frame.height if rotation % 180 else frame.width,
            height=frame.width if rotation % 180 else frame.height,
            rotation=rotation,
            codec=video.stream.codec_context.codec.canonical_name,
            keyframes_s=length[2],
            exact=scan or index is not None,
        )


def _told_by_index(index: PacketIndex) -> Length:
    """Of what is shown: hidden frames, keyframes too, do not count."""
    keys_s = index.times_s[np.isin(index.pts, index.keys)]
    return len(index.pts), round(float(index.times_s[-1]) + index.last_s, 6), tuple(keys_s.tolist())


def _told_by_decoding(video: OpenVideo) -> Length:
    """Frame by frame, to the end."""
    num_frames, end_s, keys_s = 0, 0.0, []
    for time_s, frame in _timed_frames(video):
        num_frames += 1
        end_s = max(end_s, time_s + _shown_s(video, frame))
        if frame.key_frame:
            keys_s.append(time_s)
    return num_frames, round(end_s, 6), tuple(keys_s)


def _told_by_header(video: OpenVideo) -> Length:
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


def _shown_s(video: OpenVideo, frame: Any) -> float:
    """How long a frame is shown."""
    return float(frame.duration * frame.time_base) if frame.duration else video.step_s


def _pts_within(video: OpenVideo, index: PacketIndex, time_range: TimeRange | None) -> np.ndarray:
    """Timestamps of the frames with start_s <= t < end_s, or else of the one shown at start_s."""
    if time_range is None:
        return index.pts
    start_s, end_s = time_range
    first, last = np.searchsorted(index.times_s, (start_s - EPSILON_S, end_s - EPSILON_S))
    if first == last == len(index.pts):
        _check_shown(video, time_range, index.times_s[-1] + index.last_s)
    return index.pts[first:last] if first < last else index.pts[first - 1 : first]


def _check_shown(video: OpenVideo, time_range: TimeRange, shown_until_s: float) -> None:
    if time_range[0] >= shown_until_s - EPSILON_S:
        reason = f"the range {time_range[0]:g} to {time_range[1]:g} s lies beyond the end ({shown_until_s:.3f} s)"
        raise decode_error(video.name, reason, "correct the range or leave it out")


def _checked_indices(name: str, chosen: list[int], total: int) -> list[int]:
    if not chosen or not 0 <= min(chosen) <= max(chosen) < total:
        raise InputError(f"{name}: frame indices {chosen} must be a few of 0 to {total - 1}")
    return chosen


def _stacked(name: str, frames: list[Any], size: Size) -> np.ndarray:
    """Frames to uint8 [T, H, W, 3]; one that stands there twice is converted once."""
    pictures = {id(frame): frame for frame in frames}
    pictures = {key: _to_rgb(frame, size) for key, frame in pictures.items()}
    if len({picture.shape for picture in pictures.values()}) > 1:
        raise decode_error(name, "the frame size changes on the way", "ask for a fixed size=(H, W)")
    return np.stack([pictures[id(frame)] for frame in frames])


def _collect(
    video: OpenVideo, wanted: set[int], time_range: TimeRange | None, spare_bytes: int, *, stop_early: bool
) -> tuple[int, dict[int, Any]]:
    """Decode; the number of frames seen and, by index, the wanted ones and the first `spare_bytes` of the others."""
    kept: dict[int, Any] = {}
    total, last = 0, max(wanted, default=-1)
    for i, frame in enumerate(_frames_within(video, time_range)):
        total = i + 1
        if i in wanted or spare_bytes > 0:
            kept[i] = frame
            spare_bytes -= sum(plane.buffer_size for plane in frame.planes)
        if stop_early and i >= last:
            break
    return total, kept


def _frames_within(video: OpenVideo, time_range: TimeRange | None) -> Iterator[Any]:
    """Frames with start_s <= t < end_s, or else the one shown at start_s."""
    start_s, end_s = time_range or (0.0, float("inf"))
    shown, shown_until_s, empty = None, 0.0, True
    for time_s, frame in _timed_frames(video, start_s):
        if time_s < start_s - EPSILON_S:
            shown, shown_until_s = frame, time_s + _shown_s(video, frame)
        elif time_s < end_s - EPSILON_S:
            empty = False
            yield frame
        else:
            break
    else:
        if empty:
            _check_shown(video, (start_s, end_s), shown_until_s)
    if empty and shown is not None:
        yield shown


def _timed_frames(video: OpenVideo, start_s: float = 0.0) -> Iterator[tuple[float, Any]]:
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


def _to_rgb(frame: Any, size: Size) -> np.ndarray:
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


def _check_arguments(size: Size, time_range: TimeRange | None) -> None:
    sides = size if isinstance(size, tuple) else () if size is None else (size, size)
    if len(sides) not in (0, 2) or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"size must be None, a positive int or (height, width), not {size!r}")
    if time_range is not None and not 0 <= time_range[0] < time_range[1] - EPSILON_S:
        raise InputError(f"time_range must be (start_s, end_s) with 0 <= start_s < end_s, not {time_range!r}")
