"""All parts of a video that are wanted, in one pass: frames are decoded once, however many parts they belong to.

The frames of each part are those of `read_frames` for its time range. Only the pictures of parts under way are kept, so
that memory does not grow with the length of the file. Shapes: T frames, H x W pixels.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from clipvip.video.container import OpenVideo, Source, open_video
from clipvip.video.frames import (
    Size,
    TimeRange,
    VideoInfo,
    places_within,
    probe,
    shown_picture,
    stack_pictures,
    stacked,
)
from clipvip.video.index import OffPlan, PacketIndex, packet_index, planned_frames
from clipvip.video.sampling import (
    EPSILON_S,
    LUMA_SIZE,
    STILL_S,
    CutDetector,
    Scales,
    Spans,
    cut_where_frames_are,
    uniform_indices,
)
from clipvip.video.timeline import shown_s, timed_frames

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
    """Yield what there is to know of a video, its duration always, and then its segments as they are complete.

    scales: how it is cut, into windows in which there are frames. shots: at its cuts; only a shot that is longer than
    the longest window is cut into those. num_frames: uniform ones of each segment, or the only one there is. source,
    size, threads, frames: as `read_frames`.

    Of a damaged file, what can be decoded is used; what there is to know then comes again at the end, with `damage`.
    Where packets show what frames there are (mp4, mov, mkv, webm with the usual codecs), everything is decoded once,
    without what nobody asked for; elsewhere twice, the first time to see how long it is.
    Raises: VideoDecodeError if no frame can be decoded.
    """
    info = probe(source)
    with open_video(source, threads) as video:
        timeline = _timeline(video)
        yield _with_timeline(info, timeline)
        if shots:
            missed: Spans = []
            end = yield from _stream_shots(video, timeline, scales, num_frames, size, missed)
            if missed:
                video.reopen()
                yield from _stream_spans(video, end, lambda _: missed, num_frames, size)
        else:

            def cut(timeline: _Timeline) -> Spans:
                return scales.cut_where_frames_are(timeline.times_s, timeline.until_s)

            end = yield from _stream_spans(video, timeline, cut, num_frames, size)
        if end is not timeline or end.damage is not None:
            yield _with_timeline(info, end)


@dataclass(frozen=True, slots=True)
class _Timeline:
    """Times of all frames, float64 [frames]; when the last one ceases to be shown; why there are no more."""

    times_s: np.ndarray
    until_s: float
    index: PacketIndex | None = None
    damage: str | None = None


def _with_timeline(info: VideoInfo, timeline: _Timeline) -> VideoInfo:
    return replace(info, duration_s=timeline.until_s, num_frames=len(timeline.times_s), damage=timeline.damage)


def _timeline(video: OpenVideo) -> _Timeline:
    """Of a video as just opened, which it is afterwards."""
    index = packet_index(video)
    if index is None:
        return _decoded_timeline(video)
    return _Timeline(index.times_s, round(index.until_s, 6), index)


def _decoded_timeline(video: OpenVideo) -> _Timeline:
    times_s, until_s = array("d"), 0.0
    for time_s, frame in timed_frames(video):
        times_s.append(time_s)
        until_s = max(until_s, time_s + shown_s(video, frame))
    damage = video.damage
    video.reopen()
    return _Timeline(np.array(times_s), round(until_s, 6), damage=damage)


def _stream_spans(
    video: OpenVideo, timeline: _Timeline, cut: Callable[[_Timeline], Spans], num_frames: int, size: Size
) -> Generator[SegmentFrames, None, _Timeline]:
    """Parts of a video that is as just opened, in the order in which they end. Returns: the timeline that was right."""
    done: set[TimeRange] = set()
    if timeline.index is not None:
        decode = partial(planned_frames, video, timeline.index)
        try:
            for part in _gather_spans(video, timeline, cut(timeline), timeline.index.pts, decode, num_frames, size):
                done.add((part.start_s, part.end_s))
                yield part
            return timeline
        except OffPlan:
            video.reopen()
            timeline = _decoded_timeline(video)

    def every(_: np.ndarray) -> Iterator[tuple[int, Any]]:
        return ((number, frame) for number, (_, frame) in enumerate(timed_frames(video)))

    left = [span for span in cut(timeline) if span not in done]
    yield from _gather_spans(video, timeline, left, np.arange(len(timeline.times_s)), every, num_frames, size)
    return timeline


def _gather_spans(
    video: OpenVideo,
    timeline: _Timeline,
    spans: Spans,
    keys: np.ndarray,
    decode: Callable[[np.ndarray], Iterator[tuple[int, Any]]],
    num_frames: int,
    size: Size,
) -> Iterator[SegmentFrames]:
    """keys: by which `decode` calls the frames of the timeline; it gets those that are wanted."""
    wanted: dict[int, np.ndarray] = {}
    for number, span in enumerate(spans):
        within = keys[places_within(video, timeline.times_s, timeline.until_s, span)]
        wanted[number] = within[uniform_indices(len(within), num_frames if len(within) > 1 else 1)]
    if wanted:
        frames = decode(np.concatenate([*wanted.values()]))
        for number, pictures in _gather(frames, wanted, lambda frame: shown_picture(video, frame, size)):
            yield SegmentFrames(*spans[number], stack_pictures(pictures, size))


def _gather(
    frames: Iterator[tuple[int, Any]], wanted: dict[int, np.ndarray], draw: Callable[[Any], np.ndarray]
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
        pictures[key] = draw(frame)
        for number in ends[key]:
            yield number, [pictures[key] for key in wanted[number].tolist()]
            for used in set(wanted[number].tolist()):
                uses[used] -= 1
                if not uses[used]:
                    del pictures[used]


def _stream_shots(
    video: OpenVideo, timeline: _Timeline, scales: Scales, num_frames: int, size: Size, missed: Spans
) -> Generator[SegmentFrames, None, _Timeline]:
    """Shots, long ones in windows. missed: gets the parts whose frames could not all be kept. Returns: the timeline."""
    detector, shot = CutDetector(), _Shot(0.0, scales.windows_s[0], scales.strides_s[0])
    num_seen, until_s = 0, 0.0

    def take(spans: Spans) -> Iterator[SegmentFrames]:
        for span in spans:
            frames = shot.within(span)
            if frames is None:
                missed.append(span)
            else:
                chosen = uniform_indices(len(frames), num_frames if len(frames) > 1 else 1)
                yield SegmentFrames(*span, stacked(video, [frames[i] for i in chosen.tolist()], size))

    for time_s, frame in timed_frames(video):
        num_seen, until_s = num_seen + 1, time_s + shown_s(video, frame)
        height, width = LUMA_SIZE
        luma = frame.to_ndarray(format="gray", width=width, height=height, interpolation="AREA", threads=1)
        if detector.sees(time_s, luma) and time_s > shot.start_s:
            yield from take(shot.rest(time_s))
            shot = _Shot(time_s, shot.window_s, shot.stride_s)
        yield from take(shot.complete_at(time_s))
        shot.keep(time_s, frame)
    if video.damage is not None:
        timeline = _Timeline(timeline.times_s[:num_seen], round(until_s, 6), damage=video.damage)
    yield from take(shot.rest(timeline.until_s))
    return timeline


@dataclass(slots=True)
class _Shot:
    """A shot under way: when its frames begin, those that may still be wanted, and its next window's number."""

    start_s: float
    window_s: float
    stride_s: float
    next_number: int = 0
    times_s: array[float] = field(default_factory=lambda: array("d"))
    kept: deque[tuple[float, Any, int]] = field(default_factory=deque)
    kept_bytes: int = 0
    lost_s: float = -1.0

    def complete_at(self, time_s: float) -> Spans:
        """The windows that end by `time_s`, where the shot goes on: so none of them is its last."""
        spans: Spans = []
        while (end_s := self.start_s + (self.next_number * self.stride_s + self.window_s)) <= time_s:
            start_s = self.start_s + self.next_number * self.stride_s
            place = bisect_left(self.times_s, start_s - EPSILON_S)
            next_s = self.times_s[place] if place < len(self.times_s) else time_s
            shown_s = self.times_s[place - 1] + STILL_S if place else start_s
            if next_s < end_s - EPSILON_S or start_s + EPSILON_S < min(shown_s, next_s):
                spans.append((start_s, end_s))
                self.next_number += 1
            else:  # no frame in it; the next one may be years away
                number = int((next_s - self.start_s - self.window_s) // self.stride_s)
                self.next_number = max(self.next_number + 1, number)
        return spans

    def rest(self, end_s: float) -> Spans:
        """The windows that are left when the shot ends, the last one with it."""
        times_s = np.array(self.times_s) - self.start_s
        parts = cut_where_frames_are(times_s, end_s - self.start_s, self.window_s, self.stride_s)
        taken_s = (self.next_number - 1) * self.stride_s + EPSILON_S
        length_s = end_s - self.start_s
        return [
            (self.start_s + part_s, end_s if part_end_s == length_s else self.start_s + part_end_s)
            for part_s, part_end_s in parts
            if part_s > taken_s
        ]

    def keep(self, time_s: float, frame: Any) -> None:
        """Add a frame; forget those that no window will want, and others if they are too many."""
        since_s = min(self.start_s + self.next_number * self.stride_s, time_s - self.window_s)
        num_bytes = sum(plane.buffer_size for plane in frame.planes)
        self.times_s.append(time_s)
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
