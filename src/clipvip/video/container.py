"""Opening media files safely: real containers only, plain local files only, one line for every failure.

FFmpeg would also follow playlists and scripts to other files and hosts; the whitelists here keep it from that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import av
import numpy as np
from av.stream import Disposition
from PIL import Image, ImageOps, UnidentifiedImageError

from clipvip.errors import VideoDecodeError

StrPath: TypeAlias = str | os.PathLike[str]

# Self-contained formats; the audio ones only so that their error can say "audio only".
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,ogg,asf,gif,ivf,mxf,mp3,wav,flac,aac"
)
IMAGES = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow knows more, among them EPS, which runs a program.


@dataclass(frozen=True, slots=True)
class OpenVideo:
    """An open file and the stream to decode."""

    name: str
    container: Any
    stream: Any

    @property
    def step_s(self) -> float:
        """The time from frame to frame, for streams that carry no timestamps or durations."""
        return float(1 / (self.stream.guessed_rate or 25))


@contextmanager
def open_video(path: StrPath, threads: int) -> Iterator[OpenVideo]:
    _check_file(path)
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        # The prefix makes any name a plain local path: "concat:a|b", "http://...", "-x", "%03d".
        container = av.open(f"file:{os.fspath(path)}", options=options)
    except (av.FFmpegError, ValueError, OSError) as error:
        raise decode_error(path, _why_unreadable(path, error)) from error
    with container:
        stream = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
        if stream is None:
            raise decode_error(
                path, f"no video stream{' (audio only)' if container.streams.audio else ''}", "leave it out"
            )
        if stream.codec_context is None:
            raise decode_error(path, "no decoder for its codec")
        stream.codec_context.thread_count = threads
        yield OpenVideo(os.fspath(path), container, stream)


def read_image(path: StrPath) -> np.ndarray:
    """A picture file, turned as its EXIF tag says: uint8 [H, W, 3], RGB.

    Raises: VideoDecodeError.
    """
    _check_file(path)
    try:
        with Image.open(path, formats=IMAGES) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError as error:
        raise decode_error(path, f"not a picture in one of the formats {', '.join(IMAGES)}") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise decode_error(path, f"damaged picture ({error})") from error


def _why_unreadable(path: StrPath, error: Exception) -> str:
    if isinstance(error, OSError):
        return str(error.strerror).lower()
    with open(path, "rb") as file:
        head = file.read(8)
    if isinstance(error, av.error.ArgumentError) or head.startswith(b"#EXTM3U"):
        return "not a media container; playlists, scripts and pictures are refused as video"
    if head[4:] == b"ftyp":
        return "mp4 without its index (moov atom missing), usually an unfinished copy or recording"
    return "not a media file, or its header is damaged"


def _check_file(path: StrPath) -> None:
    reason = None
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            reason = "not a regular file"
        elif status.st_size == 0:
            reason = "the file is empty"
    except FileNotFoundError:
        reason = "no such file"
    except (OSError, ValueError) as error:
        reason = str(error)
    if reason is not None:
        raise decode_error(path, reason, "correct the path or leave it out")


def decode_error(path: StrPath, reason: str, way_out: str = "re-encode it or leave it out") -> VideoDecodeError:
    return VideoDecodeError(f"{os.fspath(path)}: {reason}; {way_out}")
