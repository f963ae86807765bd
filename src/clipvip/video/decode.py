"""Frames out of media files, through PyAV: always those of a full sequential decode, edit lists applied.

Every failure is one `VideoDecodeError` line: name, reason, way out. Of a damaged file, what can be decoded is used.

Shapes: T frames, H x W pixels (after rotation).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from clipvip.errors import ClipVipWarning, InputError
from clipvip.video.container import OpenVideo, Source, decode_error, open_video
from clipvip.video.frames import (
    EPSILON_S,
    DecodedFrame,
    Size,
    TimeRange,
    frames_within,
    places_within,
    stacked,
)
from clipvip.video.index import decode_planned, packet_index
from clipvip.video.sampling import uniform_indices
from clipvip.video.timeline import timed_frames

SCAN_BYTES = 512 * 2**20  # Larger files are not read as a whole for the frames of a time range.
SPARE_BYTES = 256 * 2**20  # Decoded frames kept in case they turn out to be wanted.


def read_frames(
    source: Source,
    indices: Sequence[int] | np.ndarray | Callable[[int], np.ndarray] | None = None,
    *,
    num_frames: int = 12,
    time_range: TimeRange | None = None,
    size: Size = None,
    threads: int = 1,
    strict: bool = False,
) -> np.ndarray:
    """Frames of a video: those of a full sequential decode, then rotated, then scaled.

    `source`: a path, the file's content as bytes, or a binary file object with read, seek and tell, which is rewound,
    stays open and is left anywhere. `indices` count from the start of `time_range`; a function gets the number of
    frames and returns indices (it is called with the header's count, and again if that was wrong). By default:
    `num_frames` uniform ones, or the only frame where there is just one. `time_range` (start_s, end_s) is in seconds
    after the first frame and means the frames with start_s <= t < end_s, or, if there is none, the frame shown at
    start_s. `size`: None for the file's own, (H, W), or the length of the shorter side; the decoder scales (bicubic).

    Frames are upright (display matrix: rotation, mirroring) and have square pixels (the width is scaled by the pixel
    aspect ratio); transparent parts show white; HDR (PQ, HLG) is converted to 8 bits as if it were SDR, without tone
    mapping. Where the frame size changes in the file, each frame is scaled on its own (see `frames.stack_pictures`).
    Where timestamps run backwards, time continues after the last frame.

    Of a damaged file, or one that was cut short, what can be decoded is used as if it were all, with a ClipVipWarning;
    `strict` makes that a VideoDecodeError. Damage is only found in what had to be decoded.

    Returns: uint8 [T, H, W, 3], RGB.
    Raises: VideoDecodeError if no frame can be decoded, or not the wanted ones; InputError for impossible arguments.
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
            pts = index.pts[places_within(video, index.times_s, index.until_s, time_range)]
            chosen = _checked_indices(video, choose(len(pts)), len(pts))
            planned = decode_planned(video, index, pts[chosen])
            if planned is not None:
                return stacked(video, [planned[t] for t in pts[chosen].tolist()], size)
            video.reopen()

        header_total = video.stream.frames if time_range is None else 0
        chosen = choose(header_total) if header_total or fixed is not None else []
        spare_bytes = 0 if chosen else SPARE_BYTES
        total, kept = _collect(video, set(chosen), time_range, spare_bytes, stop_early=fixed is not None)
        if fixed is None and total != header_total:
            chosen = choose(total)
        _checked_indices(video, chosen, total)
        damage = video.damage
        if not kept.keys() >= set(chosen):
            video.reopen()
            _, kept = _collect(video, set(chosen), time_range, 0, stop_early=True)
        if damage is not None:
            _report_damage(video.name, damage, strict)
        return stacked(video, [kept[i] for i in chosen], size)


def stream_frames(source: Source, *, size: Size = None, threads: int = 1) -> Iterator[tuple[float, DecodedFrame]]:
    """Every frame in turn as (seconds after the first frame, frame); only frames asked for `.rgb()` are converted.

    `source` and pixels as in `read_frames`; a file object is in use until the last frame.
    Warns: ClipVipWarning, after the last frame of a damaged file.
    Raises: VideoDecodeError if no frame can be decoded; InputError for impossible arguments.
    """
    _check_arguments(size, None)
    with open_video(source, threads) as video:
        for time_s, frame in timed_frames(video):
            yield time_s, DecodedFrame(video, frame, size)
        if video.damage is not None:
            _report_damage(video.name, video.damage, strict=False)


def _checked_indices(video: OpenVideo, chosen: list[int], total: int) -> list[int]:
    if not chosen or not 0 <= min(chosen) <= max(chosen) < total:
        if chosen and min(chosen) >= 0 and video.damage is not None:
            raise decode_error(video.name, video.damage)
        raise InputError(f"{video.name}: frame indices {chosen} must be a few of 0 to {total - 1}")
    return chosen


def _report_damage(name: str, damage: str, strict: bool) -> None:
    if strict:
        raise decode_error(name, damage)
    warnings.warn(f"{name}: damaged: {damage}; what can be decoded is used", ClipVipWarning, stacklevel=3)


def _collect(
    video: OpenVideo, wanted: set[int], time_range: TimeRange | None, spare_bytes: int, *, stop_early: bool
) -> tuple[int, dict[int, Any]]:
    """Decode; the number of frames seen and, by index, the wanted ones and the first `spare_bytes` of the others."""
    kept: dict[int, Any] = {}
    total, last = 0, max(wanted, default=-1)
    for i, (_, frame) in enumerate(frames_within(video, time_range)):
        total = i + 1
        if i in wanted or spare_bytes > 0:
            kept[i] = frame
            spare_bytes -= sum(plane.buffer_size for plane in frame.planes)
        if stop_early and i >= last:
            break
    return total, kept


def _check_arguments(size: Size, time_range: TimeRange | None) -> None:
    sides = size if isinstance(size, tuple) else () if size is None else (size, size)
    if len(sides) not in (0, 2) or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"size must be None, a positive int or (height, width), not {size!r}")
    if time_range is not None and not 0 <= time_range[0] < time_range[1] - EPSILON_S:
        raise InputError(f"time_range must be (start_s, end_s) with 0 <= start_s < end_s, not {time_range!r}")
