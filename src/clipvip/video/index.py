"""What frames a file has and where its keyframes are, from its packets alone: nothing is decoded.

A packet is not always a frame (field pairs, hidden reference frames, packed AVI): an index is only made where it can be
trusted, and whoever decodes by it checks what comes out. Everything else is decoded from the first frame on.
"""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from clipvip.video.container import OpenVideo

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"  # FFmpeg's name for the family
INDEXED = (MP4, "matroska,webm")  # containers that give every packet a timestamp and have exact keyframe indices
ONE_PACKET_ONE_FRAME = ("h264", "hevc", "vp9", "av1", "mpeg4")
CACHED_FILES = 128

_cache: OrderedDict[tuple[str, int, int], PacketIndex | None] = OrderedDict()
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


def packet_index(video: OpenVideo, *, max_bytes: float = math.inf) -> PacketIndex | None:
    """The index of an open file, which is left at its start; None if it cannot be trusted. Remembered by file.

    A file of more than `max_bytes` is not read for it: None unless its index is known.
    """
    status = os.stat(video.name)
    key = (os.path.abspath(video.name), status.st_size, status.st_mtime_ns)
    with _lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    if status.st_size > max_bytes:
        return None
    index = _scan(video)
    video.container.seek(0, backward=True)
    with _lock:
        _cache[key] = index
        while len(_cache) > CACHED_FILES:
            _cache.popitem(last=False)
    return index


def _scan(video: OpenVideo) -> PacketIndex | None:
    stream, container = video.stream, video.container
    codec = stream.codec_context.codec.canonical_name
    if container.format.name not in INDEXED or codec not in ONE_PACKET_ONE_FRAME:
        return None
    shown, keys, first, last = [], [], None, None
    for packet in container.demux(stream):
        if packet.size == 0:  # the flush packet at the end
            continue
        if packet.pts is None or packet.is_corrupt:
            return None
        if first is None:
            first = packet
            if not packet.is_keyframe:
                return None
        if packet.is_keyframe:
            keys.append(packet.pts)
        if not packet.is_discard:  # an edit list leaves it out
            shown.append(packet.pts)
            last = packet if last is None or packet.pts > last.pts else last
    pts = np.unique(np.array(shown, np.int64))
    if first is None or last is None or len(pts) != len(shown) or pts[0] < first.pts:
        return None  # frames before the first keyframe: whether they come out is the decoder's business
    if container.format.name == MP4 and max((e.pos + e.size for e in stream.index_entries), default=0) > container.size:
        return None  # cut short: the error is for those who decode to the end
    time_base_s = float(stream.time_base)
    last_s = last.duration * time_base_s if last.duration else video.step_s
    return PacketIndex(pts, np.array(sorted(keys), np.int64), time_base_s, last_s, _skippable(stream.codec_context))


def _skippable(codec: object) -> bool:
    """Whether frames that the codec calls non-reference are referenced by no other frame.

    HEVC's are only so within their temporal layer; the container says how many layers there are (hvcC, byte 21).
    """
    name, extra = codec.codec.canonical_name, codec.extradata  # type: ignore[attr-defined]
    if name != "hevc":
        return True
    return extra is not None and len(extra) > 22 and extra[0] == 1 and (extra[21] >> 3 & 7) <= 1
