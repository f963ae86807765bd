"""What frames a file has and where its keyframes are, by its packets alone; and decoding as little as that allows.

A packet is not always a frame (field pairs, hidden reference frames, packed AVI): an index is only made where it can be
trusted, and what comes out is checked against it. Everything else is decoded from the first frame on.
"""

from __future__ import annotations

import io
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import av
import numpy as np

from clipvip.video.container import MP4, OpenVideo

INDEXED = (MP4, "matroska,webm")  # containers that give every packet a timestamp and have exact keyframe indices
ONE_PACKET_ONE_FRAME = ("h264", "hevc", "vp9", "av1", "mpeg4")
CACHED_FILES = 128
MAX_REORDER = 32
"""By so many places the order of packets and that of frames may differ: codecs keep at most 16 frames back."""

Key: TypeAlias = tuple[int, int, int, int]
"""A file's device, inode, size and time: if they are as they were, so is the content."""

_cache: OrderedDict[Key, PacketIndex | None] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """pts: of every frame, ascending, int64 [frames]; keys: of every keyframe, ascending; in units of `time_base_s`.

    last_s: how long the last frame is shown. skippable: whether the decoder may skip non-reference frames.
    """

    pts: np.ndarray
    keys: np.ndarray
    time_base_s: float
    last_s: float
    skippable: bool

    @property
    def times_s(self) -> np.ndarray:
        """Seconds after the first frame, float64 [frames]."""
        return (self.pts - self.pts[0]) * self.time_base_s

    @property
    def until_s(self) -> float:
        """When the last frame ceases to be shown."""
        return float(self.times_s[-1]) + self.last_s


def packet_index(video: OpenVideo, *, max_bytes: float = math.inf) -> PacketIndex | None:
    """The index of an open file, which is left at its start; None if it cannot be trusted: then all is as just opened.

    A file of more than `max_bytes` is not read for it: None unless its index is known. Indices of files are kept.
    """
    codec = video.stream.codec_context.codec.canonical_name
    if video.container.format.name not in INDEXED or codec not in ONE_PACKET_ONE_FRAME:
        return None
    key = _key(video)
    with _lock:
        if key is not None and key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    if video.container.size > max_bytes:
        return None
    try:
        index = _scan(video)
        video.container.seek(0, backward=True)
    except (av.FFmpegError, OSError):
        index = None  # decoding will show where the file breaks off
    if index is None:
        video.reopen()
    if key is not None:
        with _lock:
            _cache[key] = index
            while len(_cache) > CACHED_FILES:
                _cache.popitem(last=False)
    return index


def _key(video: OpenVideo) -> Key | None:
    """By what an index is remembered; None for bytes and objects that only behave like files."""
    if isinstance(video.source, str | os.PathLike):
        status = os.stat(video.source)
    elif isinstance(video.source, io.BufferedReader) and isinstance(video.source.raw, io.FileIO):
        status = os.fstat(video.source.fileno())
    else:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _scan(video: OpenVideo) -> PacketIndex | None:
    stream = video.stream
    shown, keys, first, last, newest = [], [], None, None, None
    for packet in video.container.demux(stream):
        if packet.size == 0:  # the flush packet at the end
            continue
        if packet.pts is None or packet.is_corrupt:
            return None
        if first is None:
            first = packet
            if not packet.is_keyframe:
                return None
        if packet.is_keyframe:
            if newest is not None and packet.pts <= newest:
                return None  # time runs backwards: only decoding shows what comes out, and when
            keys.append(packet.pts)
        newest = packet.pts if newest is None else max(newest, packet.pts)
        if not packet.is_discard:  # an edit list leaves it out
            shown.append(packet.pts)
            last = packet if last is None or packet.pts > last.pts else last
    pts = np.unique(np.array(shown, np.int64))
    if first is None or last is None or len(pts) != len(shown) or pts[0] < first.pts:
        return None  # frames before the first keyframe: whether they come out is the decoder's business
    if np.abs(np.argsort(np.array(shown, np.int64), kind="stable") - np.arange(len(shown))).max() > MAX_REORDER:
        return None  # as above
    if video.cut_short:
        return None  # decoding will show how much is there
    time_base_s = float(stream.time_base)
    last_s = last.duration * time_base_s if last.duration else video.step_s
    return PacketIndex(pts, np.array(sorted(keys), np.int64), time_base_s, last_s, _skippable(stream.codec_context))


def _skippable(codec: object) -> bool:
    """Whether frames that the codec calls non-reference are referenced by no other frame.

    HEVC's are only so within their temporal layer; the container says how many layers there are (hvcC, byte 21). AV1's
    decoder takes the wish to skip for the whole file when it is opened, and then withholds wanted frames too.
    """
    name, extra = codec.codec.canonical_name, codec.extradata  # type: ignore[attr-defined]
    if name == "av1":
        return False
    if name != "hevc":
        return True
    return extra is not None and len(extra) > 22 and extra[0] == 1 and (extra[21] >> 3 & 7) <= 1


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
