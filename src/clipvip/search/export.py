"""Parts of videos as files of their own, MP4 with sound.

The first frame is the one asked for. Where it is a keyframe of an MP4 file with usual codecs, packets are copied
as they are; otherwise, or where the muxer refuses them, picture and sound are encoded again.
"""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from clipvip.errors import InputError
from clipvip.files import replacing
from clipvip.search.query.query import Hit
from clipvip.video import MP4, REFUSALS, OpenVideo, PacketIndex, is_interlaced, open_video, packet_index, write_mp4

COPIED_VIDEO = ("h264", "hevc", "av1")
COPIED_AUDIO = ("aac", "mp3")
KEPT_TAGS = ("hvc1",)
"""Apple's players take HEVC under this name only; the muxer would choose another."""
NAME_BYTES = 255 - len(".mp4.partial")
"""What most file systems take, less what is put behind a name while the file is written."""


def export_hit(hit: Hit, folder: str | os.PathLike[str]) -> Path:
    """Cut a hit into `folder`, which is made: "RANK NAME M.SS-M.SS.mp4". Returns: the file.

    Raises: VideoDecodeError if the video cannot be read (any more); OSError if the folder cannot be written.
    """
    target = Path(folder) / f"{file_name(hit)}.mp4"
    target.parent.mkdir(parents=True, exist_ok=True)
    cut(hit.video, hit.start_s, hit.end_s, target)
    return target


def file_name(hit: Hit) -> str:
    """What a hit's files are called, without an extension; of the video's name what every file system takes."""
    stem = re.sub(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*]', "_", hit.video.stem)[:80]
    times = "-".join(f"{int(time_s) // 60}.{int(time_s) % 60:02d}" for time_s in (hit.start_s, hit.end_s))
    room = NAME_BYTES - len(f"{hit.rank:03d}  {times}")
    return f"{hit.rank:03d} {os.fsencode(stem)[:room].decode(errors='ignore').strip()} {times}"


def cut(source: str | os.PathLike[str], start_s: float, end_s: float, target: str | os.PathLike[str]) -> None:
    """Write the part of a video from start_s to end_s, in seconds after its first frame, as MP4.

    The file is there as a whole or not at all.
    Raises: VideoDecodeError if there is no such part or it cannot be encoded; OSError if `target` cannot be written;
    InputError for an empty range.
    """
    if not 0 <= start_s < end_s:
        raise InputError(f"{source}: from {start_s:g} to {end_s:g} s is no part of a video")
    with replacing(Path(target)) as temporary:
        if not _copy(source, start_s, end_s, temporary):
            write_mp4(os.fspath(source), temporary, time_range=(start_s, end_s))


def _copy(source: str | os.PathLike[str], start_s: float, end_s: float, target: Path) -> bool:
    with open_video(os.fspath(source), 0) as video:
        index = packet_index(video)
        key = None if index is None else _copied_from(video, index, start_s)
        if index is None or key is None:
            return False
        try:
            with av.open(os.fspath(target), "w", format="mp4", options={"movflags": "+faststart"}) as out:
                _copy_packets(video, index, key, end_s, out)
        except REFUSALS:
            return False  # decoding will show whether the file is to blame
        return True


def _copied_from(video: OpenVideo, index: PacketIndex, start_s: float) -> int | None:
    """The first frame at or after `start_s`, if it is a keyframe and can be copied."""
    if video.container.format.name != MP4:  # others leave out the times of decoding, which MP4 cannot do without
        return None
    if video.stream.codec_context.codec.canonical_name not in COPIED_VIDEO or is_interlaced(video):
        return None
    if video.audio is not None and video.audio.codec_context.codec.canonical_name not in COPIED_AUDIO:
        return None
    first = int(index.times_s.searchsorted(start_s - 1e-6))
    if first == len(index.pts) or index.pts[first] not in index.keys:
        return None
    return int(index.pts[first])


def _copy_packets(video: OpenVideo, index: PacketIndex, key: int, end_s: float, out: Any) -> None:
    streams = [stream for stream in (video.stream, video.audio) if stream is not None]
    copies = {stream.index: out.add_stream_from_template(stream, opaque=True) for stream in streams}
    tag = video.stream.codec_context.codec_tag
    if tag in KEPT_TAGS:
        copies[video.stream.index].codec_context.codec_tag = tag
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
