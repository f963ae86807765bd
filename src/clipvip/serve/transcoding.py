"""What browsers play as it is, and a copy that they play of everything else. Runs in supervised processes."""

from __future__ import annotations

import os
from contextlib import suppress

import av

from clipvip.jobs import Beat, usable_cpus
from clipvip.video import MP4, OpenVideo, Source, is_interlaced, open_video, shown_streams, write_mp4

LONGEST_SIDE = 1280
COPY_CRF = 23
EIGHT_BIT = ("yuv420p", "yuvj420p")
PLAYED = {
    "video/mp4": (("h264", "vp9", "av1"), ("aac", "mp3", "opus", "flac")),
    "video/webm": (("vp8", "vp9", "av1"), ("opus", "vorbis")),
}
"""By media type, the video and audio codecs that all current browsers play in it."""
LATE_S = 0.08
"""Browsers count from where the file's clock is 0, we from the first picture: they may be so far apart, two frames."""
MAX_SCAN_BYTES = 512 << 20


def browser_type(source: Source) -> str | None:
    """The media type of a file that browsers play as it was indexed; None: they need a copy.

    Raises: VideoDecodeError.
    """
    with open_video(source, threads=1) as video:
        media_type = _container_type(video)
        if media_type is None or video.stream.codec_context.pix_fmt not in EIGHT_BIT:
            return None
        start = video.stream.start_time
        if start is not None and abs(start * video.stream.time_base) > LATE_S:
            return None
        if len(shown_streams(video.container)) > 1 or is_interlaced(video):
            return None
        pictures, sounds = PLAYED[media_type]
        codecs = [stream.codec_context for stream in video.container.streams.audio]
        heard = all(codec is not None and codec.codec.canonical_name in sounds for codec in codecs)
        if not heard or video.stream.codec_context.codec.canonical_name not in pictures:
            return None
        return None if media_type == "video/webm" and _runs_backwards(video) else media_type


def transcode(source: Source, target: str | os.PathLike[str], max_bytes: int, beat: Beat) -> None:
    """Write a copy of the file for browsers to `target`, no larger than LONGEST_SIDE; a `beat` per frame.

    Raises: VideoDecodeError if no frame can be decoded or encoded, or the copy would be larger than `max_bytes`.
    """
    write_mp4(
        source, target, longest_side=LONGEST_SIDE, crf=COPY_CRF, max_bytes=max_bytes, on_frame=lambda: beat(0),
        threads=usable_cpus(),
    )  # fmt: skip


def _runs_backwards(video: OpenVideo) -> bool:
    """Whether timestamps go back, as in joined recordings; browsers then show one part only. MP4 has no such times."""
    if video.container.size > MAX_SCAN_BYTES:
        return False
    last = None
    with suppress(av.FFmpegError):
        for packet in video.container.demux(video.stream):
            if packet.pts is not None:
                if last is not None and packet.pts < last:
                    return True
                last = packet.pts
    return False


def _container_type(video: OpenVideo) -> str | None:
    if video.container.format.name == MP4:
        return "video/mp4"
    # FFmpeg has one name for Matroska and WebM; the file's own is among the first elements
    is_webm = video.container.format.name == "matroska,webm" and b"\x42\x82\x84webm" in video.head[:128]
    return "video/webm" if is_webm else None
