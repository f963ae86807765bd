"""Frames of an open file with their times: decoded as far as possible, on one ascending timeline.

A time is in seconds after the first frame. Where timestamps run backwards (recordings that were joined, a clock that
was set), time continues after the last frame, as in players.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import av

from clipvip.video.container import MP4, OpenVideo, decode_error
from clipvip.video.index import INDEXED

TimedFrame: TypeAlias = tuple[float, Any]

SEEK_FROM_S = 5.0  # Decoding a few seconds costs less than a seek that has to be taken back.
SEEK_EARLY_S = 1.0  # Sound of a moment may be in the file before its picture.
MAX_WAITING_BYTES = 64 << 20
"""Of sound that is kept until its picture comes: three minutes of stereo."""
MAX_LEAD = 64
"""Pictures that may still come from before a seam when its sound has come: decoders hold some back."""
SEAMS_NEAR = 16
"""Sound belongs to one of the last seams."""
BROADCAST = ("mpegts", "mpeg")
"""Formats whose packets FFmpeg calls corrupt where the one before is missing."""
SLIP_S, MAX_SLIP = 0.5, 16
"""A jump back by more than this, or with more frames than these before time is ahead again, is a seam."""
SOUND_JITTER_S = 0.1
"""Sound that goes back by less has crossed no seam."""


def timed_frames(video: OpenVideo, start_s: float = 0.0) -> Iterator[TimedFrame]:
    """Yield all frames that can be decoded, with their times; those well before `start_s` may be left out.

    What cannot be decoded is passed over, and the reason is kept in `video.damage`.
    Raises: VideoDecodeError if there is no frame at all.
    """
    return _timed(video, start_s, [video.stream])


def timed_media(video: OpenVideo, start_s: float = 0.0) -> Iterator[TimedFrame]:
    """Yield frames and sound (of `video.audio`, if there is such) in the order of the file, on one timeline.

    Sound from before the first frame has negative times. Raises: as `timed_frames`.
    """
    return _timed(video, start_s, [video.stream, *([] if video.audio is None else [video.audio])])


def shown_s(video: OpenVideo, frame: Any) -> float:
    """How long a frame is shown."""
    return float(frame.duration * frame.time_base) if frame.duration else video.step_s


@dataclass(slots=True)
class Clock:
    """Turns the timestamps of frames, in the order of decoding output, into an ascending timeline.

    A few timestamps that are too early, with good ones after them, are a slip: their frames go between the good ones.
    If they go back by more than SLIP_S, or for longer, it is a seam: from there on, time continues after the last
    frame.
    offsets_s: what is added to timestamps, before the first seam and after each.
    """

    last_s: float = -float("inf")
    until_s: float = 0.0
    offsets_s: list[float] = field(default_factory=lambda: [0.0])
    _held: list[tuple[float, Any, float]] = field(default_factory=list)

    def place(self, raw_s: float | None, frame: Any, duration_s: float) -> list[TimedFrame]:
        """Return the frames whose times are known now. raw_s: None for a frame without a timestamp."""
        placed: list[TimedFrame] = []
        while self._held:
            early_s = self.last_s - (self._held[0][0] + self.offsets_s[-1])
            if raw_s is not None and raw_s + self.offsets_s[-1] > self.last_s:
                placed += self._place_between(raw_s + self.offsets_s[-1])
            elif raw_s is None or early_s > SLIP_S or len(self._held) >= MAX_SLIP:
                placed += self._continue()
            else:
                break
        time_s = self.until_s if raw_s is None else raw_s + self.offsets_s[-1]
        if raw_s is not None and (self._held or time_s <= self.last_s):
            self._held.append((raw_s, frame, duration_s))
        else:
            placed.append(self._at(time_s, frame, duration_s))
        return placed

    def rest(self) -> list[TimedFrame]:
        """Return what is left at the end of the file."""
        placed = []
        while self._held:
            placed += self._continue()
        return placed

    def _place_between(self, next_s: float) -> list[TimedFrame]:
        held, self._held = self._held, []
        start_s, step_s = self.last_s, (next_s - self.last_s) / (len(held) + 1)
        return [self._at(start_s + i * step_s, frame, step_s) for i, (_, frame, _) in enumerate(held, 1)]

    def _continue(self) -> list[TimedFrame]:
        """What was held, from the end of the last frame on."""
        ((raw_s, frame, duration_s), *others), self._held = self._held, []
        self.offsets_s.append(self.until_s - raw_s)
        first = self._at(self.until_s, frame, duration_s)
        return [first, *(placed for early in others for placed in self.place(*early))]

    def _at(self, time_s: float, frame: Any, duration_s: float) -> TimedFrame:
        self.last_s, self.until_s = time_s, time_s + duration_s
        return time_s, frame


class SoundBuffer:
    """Sound that waits for a picture: no more than MAX_WAITING_BYTES, of which the oldest goes first."""

    def __init__(self) -> None:
        self._frames: deque[TimedFrame] = deque()
        self._num_bytes = 0

    def add(self, time_s: float, frame: Any) -> None:
        """Keep a frame of sound."""
        self._frames.append((time_s, frame))
        self._num_bytes += _num_bytes(frame)
        while self._num_bytes > MAX_WAITING_BYTES:
            self._num_bytes -= _num_bytes(self._frames.popleft()[1])

    def take(self) -> Iterator[TimedFrame]:
        """Empty it, the oldest first."""
        while self._frames:
            time_s, frame = self._frames.popleft()
            self._num_bytes -= _num_bytes(frame)
            yield time_s, frame


class _SoundClock:
    """Places sound on the timeline of the pictures: by the seam that brings it nearest to the picture of the moment.

    Where sound goes back, its picture may be about to do so: it waits for a seam, or for so many pictures without one.
    """

    def __init__(self, clock: Clock):
        self._clock, self._last_s = clock, -float("inf")
        self._waiting, self._num_seams, self._patience = SoundBuffer(), 0, 0

    def place(self, raw_s: float, frame: Any) -> Iterator[TimedFrame]:
        """Yield the sound whose time is known now."""
        if raw_s < self._last_s - SOUND_JITTER_S:
            self._patience, self._num_seams = MAX_LEAD, len(self._clock.offsets_s)
        self._last_s = raw_s
        self._waiting.add(raw_s, frame)
        if not self._patience:
            yield from self.known()

    def picture_came(self) -> Iterator[TimedFrame]:
        """Yield the sound that has been waiting for this picture."""
        self._patience = 0 if len(self._clock.offsets_s) > self._num_seams else max(self._patience - 1, 0)
        if not self._patience:
            yield from self.known()

    def known(self) -> Iterator[TimedFrame]:
        """Yield all that waits."""
        for raw_s, frame in self._waiting.take():
            times_s = [raw_s + offset_s for offset_s in self._clock.offsets_s[-SEAMS_NEAR:]]
            yield min(times_s, key=lambda time_s: abs(time_s - self._clock.last_s)), frame


def _num_bytes(frame: Any) -> int:
    return sum(plane.buffer_size for plane in frame.planes)


def _timed(video: OpenVideo, start_s: float, streams: Sequence[Any]) -> Iterator[TimedFrame]:
    clock = Clock()
    sound, num_frames = _SoundClock(clock), 0
    origin, frames = _frames_from(video, start_s, streams)
    for frame in frames:
        if isinstance(frame, av.AudioFrame):
            if frame.pts is not None and origin is not None:
                origin_s = origin * video.stream.time_base
                yield from sound.place(float(frame.pts * frame.time_base - origin_s), frame)
            continue
        timed = frame.pts is not None and origin is not None
        raw_s = float((frame.pts - origin) * frame.time_base) if timed else None
        for placed in clock.place(raw_s, frame, shown_s(video, frame)):
            num_frames += 1
            yield placed
        yield from sound.picture_came()
    for placed in clock.rest():
        num_frames += 1
        yield placed
    yield from sound.known()
    if num_frames == 0:
        raise decode_error(video.name, f"no decodable frame{f' ({video.damage})' if video.damage else ''}")
    # FFmpeg takes a file that was cut between two frames, or two blocks, for one that ends there. What a header says of
    # the file's bytes may be wrong: if as many frames came out as it says, nothing is missing.
    if video.damage is None and video.cut_short and not 0 < video.stream.frames <= num_frames:
        video.damage = f"the file was cut short: it breaks off after {num_frames} frames ({clock.until_s:.2f} s)"


def _frames_from(video: OpenVideo, start_s: float, streams: Sequence[Any]) -> tuple[int | None, Iterator[Any]]:
    """The first frame's timestamp, and frames from the last keyframe before `start_s` on, or from the first one."""
    frames = _decode(video, streams)
    opening, first = _up_to_picture(frames)
    if first is None:
        return None, iter(())
    if start_s < SEEK_FROM_S or first.pts is None or not _has_exact_seeks(video):
        return first.pts, itertools.chain(opening, frames)

    early_s = SEEK_EARLY_S if len(streams) > 1 else 0.0
    wanted = first.pts + int((start_s - early_s) / video.stream.time_base)
    for target in (wanted, first.pts):
        video.container.seek(target, stream=video.stream)
        frames = _decode(video, streams)
        opening, landed = _up_to_picture(frames)
        if landed is not None and landed.key_frame and landed.pts is not None and landed.pts <= wanted:
            break  # Else there are frames between `wanted` and here, or they lack their references: start over.
    return first.pts, itertools.chain(opening, frames)


def _up_to_picture(frames: Iterator[Any]) -> tuple[Iterable[Any], Any]:
    """The last of the sound before the first picture, with that; and that picture, or None."""
    opening = SoundBuffer()
    for frame in frames:
        if isinstance(frame, av.VideoFrame):
            return [*(sound for _, sound in opening.take()), frame], frame
        opening.add(0.0, frame)
    return [], None


def _has_exact_seeks(video: OpenVideo) -> bool:
    """Whether the keyframes that a seek finds are in the order of time in the file."""
    name = video.container.format.name
    if name == MP4 or name not in INDEXED:  # MP4's times of decoding always ascend, and it lists every frame
        return name == MP4
    places = [entry.pos for entry in video.stream.index_entries]
    return places == sorted(places)


def _decode(video: OpenVideo, streams: Sequence[Any]) -> Iterator[Any]:
    """Whatever can be decoded, in the order in which it comes; why something could not goes to `video.damage`."""
    packets, num_frames = video.container.demux(*streams), 0
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:  # OSError: a file object that cannot be read
            video.damage = f"reading breaks off after {num_frames} frames ({error.strerror or error})"
            return
        if packet is None:
            return
        is_picture = packet.stream_index == video.stream.index
        if packet.is_corrupt and video.container.format.name not in BROADCAST:  # the file ends in the middle of it
            if is_picture and video.damage is None and num_frames < video.stream.frames:
                video.damage = f"the file was cut short: it breaks off after {num_frames} frames, within the next"
            continue
        try:
            frames = packet.decode()
        except (av.FFmpegError, OSError) as error:
            if is_picture and video.damage is None:
                video.damage = f"decoding fails after {num_frames} frames ({error.strerror or error})"
            continue
        num_frames += len(frames) if is_picture else 0
        yield from frames
