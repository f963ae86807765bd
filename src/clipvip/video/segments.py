"""All parts of a video that are wanted, in one pass: frames are decoded once, however many parts they belong to.

The frames of each part are those of `read_frames` for its time range. Only the pictures of parts under way are kept, so
that memory does not grow with the length of the file. Shapes: T frames, H x W pixels.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from clipvip.video.container import OpenVideo, Source, open_video
from clipvip.video.cutting import Scales, Spans, cut_segments
from clipvip.video.frames import (
    EPSILON_S,
    Size,
    TimeRange,
    places_within,
    shown_s,
    stack_pictures,
    stacked,
    timed_frames,
    to_rgb,
)
from clipvip.video.index import PacketIndex, packet_index
from clipvip.video.info import VideoInfo, probe
from clipvip.video.plan import OffPlan, planned_frames
from clipvip.video.sampling import uniform_indices
from clipvip.video.shots import LUMA_SIZE, CutDetector

KEPT_BYTES = 512 * 2**20
"""Decoded frames of a shot under way. Of one that needs more, the frames are read again when its end is known."""


@dataclass(frozen=True, slots=True)
class SegmentFrames:
    """The frames of one part of a video, uint8 [T, H, W, 3]."""

    start_s: float
    end_s: float
    frames: np.ndarray


def stream_segments(
    source: Source, scales: Scales, *, shots: bool = False, num_frames: int = 12, size: Size = None, threads: int = 1
) -> Iterator[VideoInfo | SegmentFrames]:
    """What there is to know of a video, its duration always, and then its segments as they are complete.

    scales: how it is cut. shots: at its cuts; only a shot that is longer than the longest window is cut into those.
    num_frames: uniform ones of each segment, or the only one there is. source, size, threads, frames: as `read_frames`.

    Where packets tell what frames there are (mp4, mov, mkv, webm with the usual codecs), everything is decoded once,
    without what nobody asked for; elsewhere twice, the first time to see how long it is.
    Raises: VideoDecodeError, also after some segments if the file breaks off.
    """
    info = probe(source)
    with open_video(source, threads) as video:
        timeline = _timeline(video)
        duration_s = round(timeline.until_s, 6)
        yield replace(info, duration_s=duration_s, num_frames=len(timeline.times_s))
        spans: Spans = []
        if shots:
            yield from _stream_shots(video, duration_s, scales, num_frames, size, missed=spans)
            video.reopen()
        else:
            spans = scales.cut(duration_s)
        if spans:
            yield from _stream_spans(video, timeline, spans, num_frames, size)


@dataclass(frozen=True, slots=True)
class _Timeline:
    """Seconds after the first frame of all frames, float64 [frames]; when the last one ceases to be shown."""

    times_s: np.ndarray
    until_s: float
    index: PacketIndex | None = None


def _timeline(video: OpenVideo) -> _Timeline:
    """Of a video as just opened, which it is afterwards."""
    index = packet_index(video)
    return _decoded_timeline(video) if index is None else _Timeline(index.times_s, index.until_s, index)


def _decoded_timeline(video: OpenVideo) -> _Timeline:
    times_s, until_s = [], 0.0
    for time_s, frame in timed_frames(video):
        times_s.append(time_s)
        until_s = max(until_s, time_s + shown_s(video, frame))
    video.reopen()
    return _Timeline(np.array(times_s), until_s)


def _stream_spans(
    video: OpenVideo, timeline: _Timeline, spans: Spans, num_frames: int, size: Size
) -> Iterator[SegmentFrames]:
    """Parts of a video that is as just opened, in the order in which they end."""
    left = dict(enumerate(spans))

    def gathered(
        timeline: _Timeline, keys: np.ndarray, decode: Callable[[np.ndarray], Iterator[tuple[int, Any]]]
    ) -> Iterator[SegmentFrames]:
        """keys: by which `decode` calls the frames; it gets those that are wanted."""
        wanted: dict[int, np.ndarray] = {}
        for number, span in left.items():
            within = keys[places_within(video, timeline.times_s, timeline.until_s, span)]
            wanted[number] = within[uniform_indices(len(within), num_frames if len(within) > 1 else 1)]
        for number, pictures in _gather(decode(np.concatenate([*wanted.values()])), wanted, size):
            yield SegmentFrames(*left.pop(number), stack_pictures(video.name, pictures))

    if timeline.index is not None:
        try:
            yield from gathered(timeline, timeline.index.pts, partial(planned_frames, video, timeline.index))
            return
        except OffPlan:
            video.reopen()
            timeline = _decoded_timeline(video)

    def every(_: np.ndarray) -> Iterator[tuple[int, Any]]:
        return ((number, frame) for number, (_, frame) in enumerate(timed_frames(video)))

    yield from gathered(timeline, np.arange(len(timeline.times_s)), every)


def _gather(
    frames: Iterator[tuple[int, Any]], wanted: dict[int, np.ndarray], size: Size
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """The pictures of each part as soon as its last one is there. wanted: the keys of its frames, ascending."""
    uses = Counter(key for keys in wanted.values() for key in set(keys.tolist()))
    ends = defaultdict[int, list[int]](list)
    for number, keys in wanted.items():
        ends[int(keys[-1])].append(number)
    pictures: dict[int, np.ndarray] = {}
    for key, frame in frames:
        if key not in uses:
            continue
        pictures[key] = to_rgb(frame, size)
        for number in ends[key]:
            yield number, [pictures[key] for key in wanted[number].tolist()]
            for used in set(wanted[number].tolist()):
                uses[used] -= 1
                if not uses[used]:
                    del pictures[used]


def _stream_shots(
    video: OpenVideo, duration_s: float, scales: Scales, num_frames: int, size: Size, missed: Spans
) -> Iterator[SegmentFrames]:
    """Shots, long ones in windows. missed: gets the parts whose frames could not all be kept."""
    window_s, stride_s = scales.windows_s[0], scales.strides_s[0]
    detector, shot = CutDetector(), _Shot(0.0)

    def taken(span: TimeRange) -> Iterator[SegmentFrames]:
        frames = shot.within(span)
        if frames is None:
            missed.append(span)
        else:
            chosen = uniform_indices(len(frames), num_frames if len(frames) > 1 else 1)
            yield SegmentFrames(*span, stacked(video.name, [frames[i] for i in chosen.tolist()], size))

    def rest(end_s: float) -> Iterator[SegmentFrames]:
        parts = cut_segments(end_s - shot.start_s, window_s, stride_s)
        for part_start_s, part_end_s in parts[shot.num_taken :]:
            last = part_end_s == parts[-1][1]
            yield from taken((shot.start_s + part_start_s, end_s if last else shot.start_s + part_end_s))

    for time_s, frame in timed_frames(video):
        height, width = LUMA_SIZE
        luma = frame.to_ndarray(format="gray", width=width, height=height, interpolation="AREA", threads=1)
        if detector.sees(time_s, luma) and time_s > shot.start_s:
            yield from rest(time_s)
            shot = _Shot(time_s)
        part_start_s = shot.num_taken * stride_s
        while shot.start_s + (part_start_s + window_s) <= time_s:  # the shot goes on: this is not its last window
            yield from taken((shot.start_s + part_start_s, shot.start_s + (part_start_s + window_s)))
            shot.num_taken += 1
            part_start_s = shot.num_taken * stride_s
        shot.keep(time_s, frame, since_s=min(shot.start_s + part_start_s, time_s - window_s))
    yield from rest(duration_s)


@dataclass(slots=True)
class _Shot:
    """A shot under way: those of its frames that may still be wanted, and how many of its windows are taken."""

    start_s: float
    num_taken: int = 0
    kept: deque[tuple[float, Any, int]] = field(default_factory=deque)
    kept_bytes: int = 0
    lost_s: float = -1.0

    def keep(self, time_s: float, frame: Any, since_s: float) -> None:
        """since_s: no earlier frame will be wanted."""
        num_bytes = sum(plane.buffer_size for plane in frame.planes)
        self.kept.append((time_s, frame, num_bytes))
        self.kept_bytes += num_bytes
        while self.kept and (self.kept[0][0] < since_s - EPSILON_S or self.kept_bytes > KEPT_BYTES):
            self.lost_s, _, num_bytes = self.kept.popleft()
            self.kept_bytes -= num_bytes

    def within(self, span: TimeRange) -> list[Any] | None:
        """The frames of a part; None if they are not all there."""
        start_s, end_s = span[0] - EPSILON_S, span[1] - EPSILON_S
        frames = [frame for time_s, frame, _ in self.kept if start_s <= time_s < end_s]
        return frames if frames and self.lost_s < start_s else None
