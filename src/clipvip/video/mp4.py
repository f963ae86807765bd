"""A video, or a part of one, written as MP4 that everything plays: H.264 and AAC, upright, square pixels, progressive.

Its time 0 is its first frame. Colours keep their tags (primaries, transfer, matrix) and become 8 bits in limited range.
HDR is not tone-mapped: with its tags, players do that.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

from clipvip.errors import ClipVipError
from clipvip.video.container import OpenVideo, Source, decode_error, open_video
from clipvip.video.frames import TimeRange, check_shown, display_size, opaque, orientation
from clipvip.video.sampling import EPSILON_S, STILL_S
from clipvip.video.timeline import SoundBuffer, TimedFrame, shown_s, timed_media

TICK = Fraction(1, 90_000)
"""Seconds; exact for 24, 25, 30, 30/1.001, ... frames per second."""
RATES = (1, 240)
"""Frames per second that are believed; the times of the frames are their own in any case."""
SOUND_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
JITTER_S = 0.03
"""Sound that comes so little too early or too late follows without a gap."""
MAX_SILENCE_S = 3600.0
"""Sound after a longer gap is left out."""
INTERLEAVED_S = 2.0
"""Sound of a moment is at most so far behind its picture in a file."""
MAX_STEP_S, MAX_STEPS = 3600.0, 5000
"""MP4 cannot say that a frame is shown for many hours: it is repeated, so many times at most."""
BT709, LIMITED = 1, 1  # FFmpeg's numbers for colour matrices, primaries and transfer; and for ranges
REFUSALS = (av.FFmpegError, ValueError, OSError, ArithmeticError, LookupError, NotImplementedError, RuntimeError)
"""What PyAV raises where an encoder, muxer, filter or resampler does not take what it is given."""

TARGET_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOENT, errno.ENOTDIR)
"""No fault of the source."""


def write_mp4(
    source: Source,
    target: str | os.PathLike[str],
    *,
    time_range: TimeRange | None = None,
    longest_side: int | None = None,
    crf: int = 20,
    max_bytes: int | None = None,
    on_frame: Callable[[], object] = lambda: None,
    threads: int = 0,
) -> str | None:
    """Write the frames of a time range (seconds, as `read_frames`; None: all), with their sound, to `target`.

    longest_side: of the picture, in pixels, at most. crf: quality as of x264. on_frame: called after each frame.
    Of a damaged file, what can be decoded is written. Where the frame size changes, later frames are fitted into the
    size of the first. Sound that cannot be decoded or converted is left out.
    Returns: the damage, if any was found.
    Raises: VideoDecodeError if there is no such part, if it cannot be encoded, or would take more than `max_bytes`;
    OSError if `target` cannot be written.
    """
    with open_video(source, threads) as video:
        try:
            with av.open(os.fspath(target), "w", format="mp4", options={"movflags": "+faststart"}) as out:
                start_s, end_s = time_range or (0.0, float("inf"))
                writer = _Writer(video, out, end_s, longest_side, crf, max_bytes)
                for time_s, frame in _media_within(video, (start_s, end_s)):
                    writer.write(time_s, frame)
                    on_frame()
                writer.finish()
        except ClipVipError:
            raise
        except REFUSALS as error:
            if isinstance(error, OSError) and error.errno in TARGET_FAULTS:
                raise OSError(error.errno, os.strerror(error.errno), os.fspath(target)) from error
            part = "" if time_range is None else f" from {time_range[0]:g} to {time_range[1]:g} s"
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise decode_error(video.name, f"cannot be written as MP4{part} ({reason})") from error
        return video.damage


def _media_within(video: OpenVideo, time_range: TimeRange) -> Iterator[TimedFrame]:
    """The frames with start_s <= t < end_s, or else the one shown at start_s, first; and the sound before end_s."""
    start_s, end_s = time_range
    early, empty, sound_s = SoundBuffer(), True, -float("inf")
    shown, shown_until_s = None, 0.0
    for time_s, frame in timed_media(video, start_s):
        is_sound = isinstance(frame, av.AudioFrame)
        if empty and shown is not None and time_s > start_s + STILL_S:  # what is shown until the next frame comes first
            yield start_s, shown
            yield from early.take()
            empty = False
        if is_sound:
            sound_s = time_s
            if not empty and time_s < end_s:
                yield time_s, frame
            elif empty and start_s - 1 <= time_s < end_s:
                early.add(time_s, frame)
        elif time_s < start_s - EPSILON_S:
            shown, shown_until_s = frame, time_s + shown_s(video, frame)
        elif time_s < end_s - EPSILON_S:
            yield time_s, frame
            if empty:
                yield from early.take()
                empty = False
        elif video.audio is None or max(sound_s, time_s - INTERLEAVED_S) >= end_s:
            break
    else:
        if empty:
            check_shown(video, time_range, shown_until_s)
    if empty and shown is not None:
        yield start_s, shown
        yield from early.take()


class _Writer:
    """The encoders of a file, made when the first frame shows what they have to be."""

    def __init__(
        self, video: OpenVideo, out: Any, end_s: float, longest_side: int | None, crf: int, max_bytes: int | None
    ):
        self._video, self._out, self._end_s, self._longest_side, self._crf = video, out, end_s, longest_side, crf
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._pictures: _Pictures | None = None
        self._sound: _Sound | None = None
        self._origin_s = 0.0

    def write(self, time_s: float, frame: Any) -> None:
        """Encode a frame, or sound; the first must be a frame."""
        if self._pictures is None:
            self._origin_s = time_s
            self._pictures = _Pictures(self._video, self._out, frame, self._longest_side, self._crf)
            if self._video.audio is not None:
                self._sound = _Sound(self._video.audio, self._out)
        at_s = time_s - self._origin_s
        if isinstance(frame, av.AudioFrame):
            assert self._sound is not None
            self._mux(self._sound.encode(at_s, frame))
        else:
            duration_s = min(shown_s(self._video, frame), self._end_s - time_s)
            self._mux(self._pictures.encode(at_s, frame, duration_s))

    def finish(self) -> None:
        """Write what the encoders still hold."""
        if self._pictures is not None:
            self._mux(self._pictures.finish())
        if self._sound is not None:
            self._mux(self._sound.finish())

    def _mux(self, packets: Iterator[Any]) -> None:
        for packet in packets:
            self._num_bytes += packet.size
            self._out.mux(packet)
        if self._max_bytes is not None and self._num_bytes > self._max_bytes:
            raise decode_error(self._video.name, f"a copy would take more than {self._max_bytes:,} bytes")


class _Pictures:
    def __init__(self, video: OpenVideo, out: Any, first: Any, longest_side: int | None, crf: int):
        self._video = video
        self._first_size = height, width = display_size(first, video.pixel_aspect)
        scale = 1.0 if longest_side is None else min(1.0, longest_side / max(height, width))
        if scale < 1:
            height, width = (max(round(side * scale / 2), 1) * 2 for side in (height, width))
        else:  # the odd line is cut off: pixels stay as they are
            height, width = (side // 2 * 2 for side in (height, width))
        if not height or not width:
            raise decode_error(video.name, f"{first.width} x {first.height} pixels are too few for H.264")
        self._scale = scale
        rate = video.stream.guessed_rate or 25
        if not RATES[0] <= rate <= RATES[1]:
            rate = 25
        options = {"crf": str(crf), "preset": "veryfast", "profile": "high"}
        self._stream = out.add_stream("libx264", rate=rate, options=options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = TICK
        self._set_colours(first)
        self._graph: Any = None
        self._graph_key: tuple[Any, ...] | None = None
        self._deinterlace = False
        self._last_pts, self._last_frame = -1, None
        self._durations: dict[int, int] = {}

    def encode(self, time_s: float, frame: Any, duration_s: float) -> Iterator[Any]:
        steps = int((time_s - self._last_pts * TICK) // MAX_STEP_S) if self._last_frame is not None else 0
        if steps > MAX_STEPS:
            days = (time_s - self._last_pts * TICK) / 86_400
            raise decode_error(self._video.name, f"its clock jumps by {float(days):,.0f} days", "repair its timestamps")
        for _ in range(steps):
            yield from self._push(self._last_pts + round(MAX_STEP_S / TICK), self._last_frame, MAX_STEP_S)
        yield from self._push(max(round(time_s / TICK), self._last_pts + 1), frame, duration_s)

    def finish(self) -> Iterator[Any]:
        yield from self._flush()
        yield from self._encoded(None)

    def _push(self, pts: int, frame: Any, duration_s: float) -> Iterator[Any]:
        self._last_pts, self._last_frame = pts, frame
        self._durations[pts] = max(round(min(duration_s, MAX_STEP_S) / TICK), 1)
        self._deinterlace = self._deinterlace or frame.interlaced_frame
        size, turned = display_size(frame, self._video.pixel_aspect), orientation(frame)
        frame = opaque(frame)
        key = (size, turned, frame.format.name, frame.colorspace, frame.color_range, self._deinterlace)
        if key != self._graph_key:
            yield from self._flush()
            self._graph, self._graph_key = self._make_graph(frame, size, turned), key
        frame.pts, frame.time_base = pts, TICK
        self._graph.push(frame)
        yield from self._pulled()

    def _flush(self) -> Iterator[Any]:
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pulled()
            self._graph = None

    def _pulled(self) -> Iterator[Any]:
        while True:
            try:
                frame = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            frame.pict_type = 0  # the encoder chooses, not the source
            frame.pts, frame.time_base = round(frame.pts * frame.time_base / TICK), TICK
            yield from self._encoded(frame)

    def _encoded(self, frame: Any) -> Iterator[Any]:
        for packet in self._stream.encode(frame):
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            yield packet

    def _make_graph(self, frame: Any, size: tuple[int, int], turned: tuple[bool, int, int]) -> Any:
        """A graph that gives frames of the output's size. size: height and width at which the frame is shown."""
        transposed, rows, columns = turned
        full_width, full_height = self._stream.width, self._stream.height
        if size == self._first_size:
            height, width = size if self._scale == 1 else (full_height, full_width)
        else:
            fit = min(full_height / size[0], full_width / size[1])
            height, width = (max(round(side * fit), 1) for side in size)
        stored = (height, width) if transposed else (width, height)
        graph = av.filter.Graph()
        colours = f"colorspace={frame.colorspace}:range={frame.color_range}"
        layout = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}"
        nodes = [graph.add("buffer", f"{layout}:time_base={TICK}:pixel_aspect=1/1:{colours}")]
        if self._deinterlace:
            nodes.append(graph.add("bwdif", "mode=send_frame:deint=interlaced"))
        matrix = ":out_color_matrix=bt709" if frame.format.is_rgb else ""
        nodes.append(graph.add("scale", f"{stored[0]}:{stored[1]}:flags=bicubic:out_range=limited{matrix}"))
        nodes.append(graph.add("format", "yuv420p"))
        nodes += [graph.add("transpose", "cclock_flip")] if transposed else []
        nodes += [graph.add("hflip")] if columns < 0 else []
        nodes += [graph.add("vflip")] if rows < 0 else []
        nodes.append(graph.add("crop", f"min(iw\\,{full_width}):min(ih\\,{full_height}):0:0"))
        nodes.append(graph.add("pad", f"{full_width}:{full_height}:-1:-1"))
        nodes.append(graph.add("setsar", "1"))
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph

    def _set_colours(self, frame: Any) -> None:
        context = self._stream.codec_context
        tags = frame.colorspace, frame.color_primaries, frame.color_trc
        if opaque(frame).format.is_rgb:
            tags = (BT709,) * 3
        context.colorspace, context.color_primaries, context.color_trc = tags
        context.color_range = LIMITED


class _Sound:
    """Sound as one unbroken row of samples: gaps become silence, what comes twice is left out."""

    def __init__(self, audio: Any, out: Any):
        context = audio.codec_context
        self._rate = context.sample_rate if context.sample_rate in SOUND_RATES else 48_000
        self._layout = "mono" if context.layout.nb_channels == 1 else "stereo"
        self._stream = out.add_stream("aac", rate=self._rate)
        self._stream.layout = self._layout
        self._resampler: Any = None
        self._resampler_key: tuple[Any, ...] | None = None
        self._num_samples = 0

    def encode(self, time_s: float, frame: Any) -> Iterator[Any]:
        key = frame.format.name, frame.layout.name, frame.sample_rate
        try:
            if key != self._resampler_key:  # what the old one still holds are some milliseconds
                self._resampler = av.AudioResampler("fltp", self._layout, self._rate)
                self._resampler_key = key
            frame.pts = None
            pieces = [piece.to_ndarray() for piece in self._resampler.resample(frame)]
        except REFUSALS:
            self._resampler_key = None
            return
        at = round(time_s * self._rate)
        for samples in pieces:
            yield from self._put(at, samples)
            at += samples.shape[1]

    def finish(self) -> Iterator[Any]:
        yield from self._stream.encode(None)

    def _put(self, at: int, samples: np.ndarray) -> Iterator[Any]:
        """samples: float32 [channels, n], of which the first is due at sample `at`."""
        ahead = at - self._num_samples
        if abs(ahead) <= JITTER_S * self._rate and self._num_samples:
            ahead = 0
        if ahead > MAX_SILENCE_S * self._rate:
            return
        samples = samples[:, max(-ahead, 0) :]
        while ahead > 0:
            silence = np.zeros((len(samples), min(ahead, self._rate)), np.float32)
            ahead -= silence.shape[1]
            yield from self._encoded(silence)
        yield from self._encoded(samples)

    def _encoded(self, samples: np.ndarray) -> Iterator[Any]:
        if samples.shape[1]:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", self._layout)
            frame.sample_rate, frame.time_base, frame.pts = self._rate, Fraction(1, self._rate), self._num_samples
            self._num_samples += samples.shape[1]
            yield from self._stream.encode(frame)
