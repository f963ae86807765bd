"""The wanted frames of an indexed file with as little decoding as gives exactly them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from clipvip.video.container import OpenVideo
from clipvip.video.index import PacketIndex

WORTH_A_SEEK = 12  # frames; decoding fewer costs less than a seek


class OffPlan(Exception):
    """Something else came out than the index says: only a sequential decode can tell what the file holds."""


def decode_planned(video: OpenVideo, index: PacketIndex, wanted: np.ndarray) -> dict[int, Any] | None:
    """The frames with the timestamps `wanted` (int64, any order), by timestamp; None if the index was wrong."""
    try:
        return dict(planned_frames(video, index, wanted))
    except OffPlan:
        return None


def planned_frames(video: OpenVideo, index: PacketIndex, wanted: np.ndarray) -> Iterator[tuple[int, Any]]:
    """The frames with the timestamps `wanted` (int64, any order), each once, in the order of time: (timestamp, frame).

    Seeks to a keyframe where that skips more than a few frames, and lets the decoder leave out non-reference frames
    that nobody asked for.
    Raises: OffPlan if anything but the indexed frames comes out, maybe after some frames; those were right.
    """
    try:
        for number, run in enumerate(_runs(index, wanted)):
            yield from _decode_run(video, index, run, seek=number > 0 or run[0] >= _second_key(index))
    except (av.FFmpegError, OSError) as error:  # OSError: a file object that cannot be read
        raise OffPlan from error


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


def _decode_run(video: OpenVideo, index: PacketIndex, run: list[int], *, seek: bool) -> Iterator[tuple[int, Any]]:
    """The frames of one run, from the keyframe before its first on."""
    container, stream = video.container, video.stream
    codec, wanted = stream.codec_context, set(run)
    key = int(index.keys[np.searchsorted(index.keys, run[0], side="right") - 1])
    if seek:
        container.seek(key, stream=stream)
    num_found, fresh = 0, True
    for packet in container.demux(stream):
        # In mp4 of variable frame rate FFmpeg may land a keyframe earlier than asked for: a detour, but a good start.
        if seek and fresh and not (packet.is_keyframe and packet.pts is not None and packet.pts <= key):
            raise OffPlan
        fresh = False
        if index.skippable:
            codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        for frame in packet.decode():
            if frame.is_corrupt or frame.interlaced_frame or not _is_indexed(index, frame.pts):
                raise OffPlan
            if frame.pts in wanted:
                num_found += 1
                if frame.pts != run[num_found - 1]:
                    raise OffPlan  # frames come out in order: one that should have is missing
                yield frame.pts, frame
                if num_found == len(run):
                    return
            if frame.pts > run[-1]:
                raise OffPlan
    raise OffPlan


def _is_indexed(index: PacketIndex, pts: int | None) -> bool:
    if pts is None:
        return False
    place = int(np.searchsorted(index.pts, pts))
    return place < len(index.pts) and int(index.pts[place]) == pts
