"""What there is to know about a video without looking at its pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import av
import numpy as np

from clipvip.video.container import OpenVideo, Source, open_video
from clipvip.video.frames import display_size
from clipvip.video.index import PacketIndex, packet_index
from clipvip.video.timeline import shown_s, timed_frames

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
