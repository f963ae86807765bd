"""The wanted frames of an indexed file with as little decoding as gives exactly them."""

from __future__ import annotations

from typing import Any

import av
import numpy as np

from clipvip.video.container import OpenVideo
from clipvip.video.index import PacketIndex

WORTH_A_SEEK = 12  # frames; decoding fewer costs less than a seek


def decode_planned(video: OpenVideo, index: PacketIndex, wanted: np.ndarray) -> dict[int, Any] | None:
    """The frames with the timestamps `wanted` (int64, any order), by timestamp.

    Seeks to a keyframe where that skips more than a few frames, and lets the decoder leave out non-reference frames
    that nobody asked for. None if anything but the indexed frames came out: then only a sequential decode can tell.
    """
    frames: dict[int, Any] = {}
    try:
        for number, run in enumerate(_runs(index, wanted)):
            found = _decode_run(video, index, run, seek=number > 0 or run[0] >= _second_key(index))
            if found is None:
                return None
            frames |= found
    except (av.FFmpegError, OSError):  # OSError: a file object that cannot be read
        return None
    return frames


def _runs(index: PacketIndex, wanted: np.ndarray) -> list[list[int]]:
    """The wanted timestamps, ascending, cut where a seek to the next one's keyframe pays."""
    ordered = np.unique(wanted)
    key_of = np.searchsorted(index.keys, ordered, side="right") - 1
    place = np.searchsorted(index.pts, ordered)
    key_place = np.searchsorted(index.pts, index.keys)
    runs: list[list[int]] = []
    for i, pts in enumerate(ordered.tolist()):
        if i and (key_of[i] == key_of[i - 1] or key_place[key_of[i]] - place[i - 1] <= WORTH_A_SEEK):
            runs[-1].append(pts)
        else:
            runs.append([pts])
    return runs


def _second_key(index: PacketIndex) -> int:
    """Before this timestamp the way from the start is as short as any."""
    return int(index.keys[1]) if len(index.keys) > 1 else int(index.pts[-1]) + 1


def _decode_run(video: OpenVideo, index: PacketIndex, run: list[int], *, seek: bool) -> dict[int, Any] | None:
    """The frames of one run, from the keyframe before its first on."""
    container, stream = video.container, video.stream
    codec, wanted = stream.codec_context, set(run)
    key = int(index.keys[np.searchsorted(index.keys, run[0], side="right") - 1])
    if seek:
        container.seek(key, stream=stream)
    found: dict[int, Any] = {}
    fresh = True
    for packet in container.demux(stream):
        # In mp4 of variable frame rate FFmpeg may land a keyframe earlier than asked for: a detour, but a good start.
        if seek and fresh and not (packet.is_keyframe and packet.pts is not None and packet.pts <= key):
            return None
        fresh = False
        if index.skippable:
            codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        for frame in packet.decode():
            if frame.is_corrupt or frame.interlaced_frame or not _is_indexed(index, frame.pts):
                return None
            if frame.pts in wanted:
                found[frame.pts] = frame
            if len(found) == len(wanted):
                return found
            if frame.pts > run[-1]:
                return None  # frames come out in order: one that should have is missing
    return None


def _is_indexed(index: PacketIndex, pts: int | None) -> bool:
    if pts is None:
        return False
    place = int(np.searchsorted(index.pts, pts))
    return place < len(index.pts) and int(index.pts[place]) == pts
