"""What browsers play as it is, and a copy that they play of everything else. Runs in supervised processes.

A copy is H.264 with AAC in an mp4 whose index comes first. Its time 0 is the source's first frame, as everywhere here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

from clipvip.jobs.worker import Beat, usable_cpus
from clipvip.video.container import MP4, OpenVideo, decode_error, open_video

LONGEST_SIDE = 1280
TIME_BASE = Fraction(1, 90_000)
AUDIO_RATE = 48_000
EIGHT_BIT = ("yuv420p", "yuvj420p")
PLAYED = {
    "video/mp4": (("h264", "vp9", "av1"), ("aac", "mp3", "opus", "flac")),
    "video/webm": (("vp8", "vp9", "av1"), ("opus", "vorbis")),
}
"""By media type, the video and audio codecs that all current browsers play in it."""
MAX_EARLY = 500
"""Sound that is kept until the first picture comes."""


def browser_type(path: str | os.PathLike[str]) -> str | None:
    """The media type of a file that browsers play as it is; None: they need a copy. Raises: VideoDecodeError."""
    with open_video(path, threads=1) as video:
        media_type = _container_type(video)
        if media_type is None or video.stream.codec_context.pix_fmt not in EIGHT_BIT:
            return None
        pictures, sounds = PLAYED[media_type]
        codecs = [stream.codec_context for stream in video.container.streams.audio]
        heard = all(codec is not None and codec.codec.canonical_name in sounds for codec in codecs)
        return media_type if heard and video.stream.codec_context.codec.canonical_name in pictures else None


def transcode(path: str | os.PathLike[str], target: str | os.PathLike[str], max_bytes: int, beat: Beat) -> None:
    """Write a copy of the file for browsers to `target`, no larger than LONGEST_SIDE; a `beat` a frame.

    Raises: VideoDecodeError if the file breaks off, or the copy would be larger than `max_bytes`.
    """
    with open_video(path, threads=usable_cpus()) as video:
        options = {"movflags": "faststart"}
        with av.open(os.fspath(target), "w", format="mp4", options=options) as out:
            copy = _Copy(video, out)
            written = 0
            for frame in _frames(video):
                for packet in copy.packets(frame):
                    written += packet.size
                    out.mux(packet)
                if written > max_bytes:
                    raise decode_error(video.name, f"a copy for browsers would take more than {max_bytes:,} bytes")
                beat(0)
            if copy.pictures is None:
                raise decode_error(video.name, "no decodable frame")
            for packet in copy.rest():
                out.mux(packet)


class _Copy:
    """The encoders of a copy, made when the first picture shows what they have to be."""

    def __init__(self, video: OpenVideo, out: Any):
        self._video, self._out = video, out
        self.pictures: Any = None
        self._sounds: Any = None
        self._early: list[Any] = []
        self._origin_s = Fraction(0)
        self._last_pts = -1
        self._num_pictures = 0
        self._resampler = av.AudioResampler(format="fltp", layout="stereo", rate=AUDIO_RATE)

    def packets(self, frame: Any) -> Iterator[Any]:
        """What encoding this frame, picture or sound, gives."""
        if isinstance(frame, av.AudioFrame):
            if self.pictures is not None:
                yield from self._sound(frame)
            elif len(self._early) < MAX_EARLY:
                self._early.append(frame)
            return
        if self.pictures is None:
            self._start(frame)
        yield from self._picture(frame)
        early, self._early = self._early, []
        for sound in early:
            yield from self._sound(sound)

    def rest(self) -> Iterator[Any]:
        """What the encoders still hold."""
        if self._sounds is not None:
            for resampled in self._resampler.resample(None):
                yield from self._sounds.encode(resampled)
            yield from self._sounds.encode(None)
        yield from self.pictures.encode(None)

    def _start(self, frame: Any) -> None:
        scale = min(1.0, LONGEST_SIDE / max(frame.width, frame.height))
        options = {"preset": "veryfast", "crf": "23", "profile": "high"}
        stream = self._out.add_stream("libx264", rate=self._video.stream.guessed_rate or 25, options=options)
        stream.width, stream.height = (max(2, round(side * scale / 2) * 2) for side in (frame.width, frame.height))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = TIME_BASE
        if self._video.stream.sample_aspect_ratio:
            stream.codec_context.sample_aspect_ratio = self._video.stream.sample_aspect_ratio
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is not None:
            stream.set_display_matrix(np.frombuffer(matrix, np.int32)[:9].tolist())
        if _sound_stream(self._video) is not None:
            self._sounds = self._out.add_stream("aac", rate=AUDIO_RATE)
            self._sounds.layout = "stereo"
        self.pictures = stream
        if frame.pts is not None:
            self._origin_s = frame.pts * frame.time_base

    def _picture(self, frame: Any) -> Iterator[Any]:
        if frame.pts is None:
            time_s = self._num_pictures * Fraction(self._video.step_s).limit_denominator(TIME_BASE.denominator)
        else:
            time_s = frame.pts * frame.time_base - self._origin_s
        self._num_pictures += 1
        pts = round(time_s / TIME_BASE)
        if pts <= self._last_pts:
            return  # two pictures at one time: the first stays
        self._last_pts = pts
        shown = frame.reformat(width=self.pictures.width, height=self.pictures.height, format="yuv420p")
        shown.pts, shown.time_base = pts, TIME_BASE
        shown.pict_type = 0  # the encoder chooses, not the source
        yield from self.pictures.encode(shown)

    def _sound(self, frame: Any) -> Iterator[Any]:
        if self._sounds is None:
            return
        for resampled in self._resampler.resample(frame):
            if resampled.pts is not None:
                resampled.pts -= round(self._origin_s / resampled.time_base)
                if resampled.pts < 0:
                    continue
            yield from self._sounds.encode(resampled)


def _frames(video: OpenVideo) -> Iterator[Any]:
    """All pictures and sounds, as they come. Damaged sound is left out. Raises: VideoDecodeError."""
    sound = _sound_stream(video)
    streams = [video.stream] if sound is None else [video.stream, sound]
    try:
        for packet in video.container.demux(streams):
            try:
                yield from packet.decode()
            except av.FFmpegError:
                if packet.stream is video.stream:
                    raise
    except av.FFmpegError as error:
        raise decode_error(video.name, f"decoding breaks off ({error.strerror})") from error


def _sound_stream(video: OpenVideo) -> Any:
    """The first sound track that can be decoded."""
    return next((stream for stream in video.container.streams.audio if stream.codec_context is not None), None)


def _container_type(video: OpenVideo) -> str | None:
    if video.container.format.name == MP4:
        return "video/mp4"
    # FFmpeg has one name for Matroska and WebM; the file's own is among the first elements
    is_webm = video.container.format.name == "matroska,webm" and b"\x42\x82\x84webm" in video.head[:128]
    return "video/webm" if is_webm else None
