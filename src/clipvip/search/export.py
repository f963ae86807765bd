"""Parts of videos as files of their own, MP4 with sound.

The first frame is the one asked for. Where it is a keyframe of an MP4 file with usual codecs, packets are copied
as they are; otherwise picture and sound are encoded anew.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from clipvip.errors import InputError
from clipvip.files import replacing
from clipvip.search.results import Hit
from clipvip.video.container import MP4, OpenVideo, decode_error, open_video
from clipvip.video.frames import frames_within, to_rgb
from clipvip.video.index import PacketIndex, packet_index

COPIED_VIDEO = ("h264", "hevc", "av1")
COPIED_AUDIO = ("aac", "mp3")
H264 = {"crf": "20", "preset": "veryfast"}
_TICK = Fraction(1, 90_000)  # s; exact for 24, 25, 30, 30/1.001, ... frames a second


def export_hit(hit: Hit, folder: str | os.PathLike[str]) -> Path:
    """Cut a hit into `folder`, which is made: "RANK NAME M.SS-M.SS.mp4". Returns: the file.

    Raises: VideoDecodeError if the video cannot be read (any more).
    """
    target = Path(folder) / f"{file_name(hit)}.mp4"
    target.parent.mkdir(parents=True, exist_ok=True)
    cut(hit.video, hit.start_s, hit.end_s, target)
    return target


def file_name(hit: Hit) -> str:
    """What a hit's files are called, without an extension; of the video's name what every file system takes."""
    stem = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", hit.video.stem)[:80]
    times = "-".join(f"{int(time_s) // 60}.{int(time_s) % 60:02d}" for time_s in (hit.start_s, hit.end_s))
    return f"{hit.rank:03d} {stem} {times}"


def cut(source: str | os.PathLike[str], start_s: float, end_s: float, target: str | os.PathLike[str]) -> None:
    """Write the part of a video from start_s to end_s, in seconds after its first frame, as MP4.

    The file is there as a whole or not at all. Raises: VideoDecodeError; InputError for an empty range.
    """
    if not 0 <= start_s < end_s:
        raise InputError(f"{source}: from {start_s:g} to {end_s:g} s is no part of a video")
    with replacing(Path(target)) as temporary, open_video(os.fspath(source), 0) as video:
        try:
            with av.open(os.fspath(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as out:
                index = packet_index(video)
                key = None if index is None else _copied_from(video, index, start_s)
                if index is not None and key is not None:
                    _copy(video, index, key, end_s, out)
                else:
                    _encode(video, start_s, end_s, out)
        except av.FFmpegError as error:
            reason = f"cannot be cut from {start_s:g} to {end_s:g} s ({error.strerror})"
            raise decode_error(video.name, reason) from error


def _copied_from(video: OpenVideo, index: PacketIndex, start_s: float) -> int | None:
    """The first frame at or after `start_s`, if it is a keyframe and can be copied."""
    audio = _audio(video)
    if video.container.format.name != MP4:  # others leave out the times of decoding, which MP4 cannot do without
        return None
    if video.stream.codec_context.codec.canonical_name not in COPIED_VIDEO:
        return None
    if audio is not None and audio.codec_context.codec.canonical_name not in COPIED_AUDIO:
        return None
    first = int(index.times_s.searchsorted(start_s - 1e-6))
    if first == len(index.pts) or index.pts[first] not in index.keys:
        return None
    return int(index.pts[first])


def _copy(video: OpenVideo, index: PacketIndex, key: int, end_s: float, out: Any) -> None:
    """Packets as they are. Frames that come after `end_s` only in the order of decoding are copied too."""
    streams = [stream for stream in (video.stream, _audio(video)) if stream is not None]
    copies = {stream.index: out.add_stream_from_template(stream) for stream in streams}
    origin = key * video.stream.time_base
    end = (int(index.pts[0]) * video.stream.time_base) + Fraction(end_s)
    done = set()
    video.container.seek(key, stream=video.stream)
    for packet in video.container.demux(streams):
        if packet.dts is None or packet.pts is None:
            continue
        time_base = packet.stream.time_base
        if packet.dts * time_base >= end:
            done.add(packet.stream.index)
            if len(done) == len(streams):
                break
        elif packet.pts * time_base >= origin and packet.stream.index not in done:
            shift = round(origin / time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = copies[packet.stream.index]
            out.mux(packet)


def _encode(video: OpenVideo, start_s: float, end_s: float, out: Any) -> None:
    """H.264 and AAC, upright, in even sizes."""
    frames = frames_within(video, (start_s, end_s))
    first = next(frames)
    height, width = (side // 2 * 2 for side in to_rgb(first, None).shape[:2])
    if not height or not width:
        raise decode_error(video.name, f"{first.width} x {first.height} pixels are too few for H.264")
    stream = out.add_stream("libx264", rate=video.stream.guessed_rate or 25, options=H264)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.time_base = stream.codec_context.time_base = _TICK
    with open_video(video.source, 0) as twin:  # for the sound, with its own place in the file
        audio = _audio(twin)
        packets = [_video_packets(itertools.chain([first], frames), stream)]
        if audio is not None and first.pts is not None:
            sound = out.add_stream("aac", rate=audio.codec_context.sample_rate)
            sound.layout = "mono" if audio.codec_context.layout.nb_channels == 1 else "stereo"
            packets.append(_audio_packets(twin, first.pts * first.time_base, end_s - start_s, sound))
        for packet in heapq.merge(*packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)


def _video_packets(frames: Iterable[Any], stream: Any) -> Iterator[Any]:
    origin, last = None, -1
    for number, raw in enumerate(frames):
        if raw.pts is not None:
            origin = raw.pts if origin is None else origin
            time = (raw.pts - origin) * raw.time_base
        else:
            time = number / Fraction(stream.codec_context.framerate)
        picture = to_rgb(raw, None)[: stream.height, : stream.width]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        last = max(round(time / _TICK), last + 1)
        frame.pts, frame.time_base = last, _TICK
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _audio_packets(video: OpenVideo, start: Fraction, length_s: float, stream: Any) -> Iterator[Any]:
    """start: on the container's own clock, where the first frame is shown."""
    audio = _audio(video)
    rate = stream.codec_context.sample_rate
    resampler = av.AudioResampler("fltp", stream.layout, rate)
    video.container.seek(max(int((start - 1) / audio.time_base), 0), stream=audio)
    for raw in video.container.decode(audio):
        for frame in resampler.resample(raw):
            at = round((frame.pts * frame.time_base - start) * rate)  # samples after the start
            if at >= length_s * rate:
                yield from stream.encode(None)
                return
            samples = frame.to_ndarray()[:, max(-at, 0) : max(math.ceil(length_s * rate) - at, 0)]
            if samples.shape[1]:
                cut_frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", stream.layout.name)
                cut_frame.sample_rate, cut_frame.time_base = rate, Fraction(1, rate)
                cut_frame.pts = max(at, 0)
                yield from stream.encode(cut_frame)
    yield from stream.encode(None)


def _audio(video: OpenVideo) -> Any:
    """The first sound track that can be decoded, or None."""
    return next((stream for stream in video.container.streams.audio if stream.codec_context is not None), None)
