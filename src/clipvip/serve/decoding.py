"""What supervised processes decode for the server: pictures and copies of indexed videos, and what somebody uploads.

Shapes: T frames, H x W pixels, S image size of the model.
"""

from __future__ import annotations

import io
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

from clipvip.errors import ClipVipWarning, VideoDecodeError
from clipvip.jobs import Beat, usable_cpus
from clipvip.video import (
    MP4,
    OpenVideo,
    Source,
    formats_of,
    is_interlaced,
    is_still,
    open_video,
    probe,
    read_frames,
    read_head,
    read_image,
    shown_streams,
    write_mp4,
)

if TYPE_CHECKING:
    from clipvip.model import ClipVipProcessor

STRIP_FRAMES = 6
SHORT_SIDE, LONG_SIDE = 120, 960
"""Pixels of a frame in a strip, whose length JPEG limits."""
MAX_PIXELS = 40_000_000
"""Of an uploaded picture: 8K video has 33 million."""
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


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a model wants its frames, without the model: this goes to another process."""

    num_frames: int
    image_size: int
    decoder_size: tuple[int, int] | int | None
    resize: str
    antialias: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, processor: ClipVipProcessor) -> Sampling:
        """That of a processor."""
        return cls(
            processor.num_frames,
            processor.image_size,
            processor.decoder_size,
            processor.resize,
            processor.antialias,
            tuple(processor.image_mean),
            tuple(processor.image_std),
        )


def pixels_of(path: str | os.PathLike[str], sampling: Sampling) -> tuple[Literal["image", "video"], np.ndarray]:
    """What kind of media a file is, and its pixels as `ClipVipProcessor` makes them: float32 [T, 3, S, S].

    Raises: VideoDecodeError if it is neither a picture nor a video, or a picture of more than MAX_PIXELS.
    """
    from clipvip.video.transforms import to_pixel_values  # torch, which no other task of these processes needs

    kind: Literal["image", "video"] = "image" if _is_picture(path) else "video"
    if kind == "image":
        frames = read_image(path)[None]
    else:
        frames = read_frames(path, num_frames=sampling.num_frames, size=sampling.decoder_size)
    pixels = to_pixel_values(
        frames,
        sampling.image_size,
        resize=sampling.resize,
        antialias=sampling.antialias,
        mean=sampling.mean,
        std=sampling.std,
    )
    return kind, pixels.numpy()


def film_strip(source: Source, time_range: tuple[float, float]) -> bytes:
    """STRIP_FRAMES evenly spaced frames of a part of a video, side by side without gaps, as JPEG.

    Raises: VideoDecodeError.
    """
    frames = _small_frames(source, STRIP_FRAMES, time_range)
    chosen = np.minimum(np.arange(STRIP_FRAMES), len(frames) - 1)  # a still has one
    return _jpeg(np.concatenate(list(frames[chosen]), axis=1))


def still(source: Source, time_range: tuple[float, float]) -> bytes:
    """The middle frame of a part of a video, for segments without a thumbnail: JPEG. Raises: VideoDecodeError."""
    frames = _small_frames(source, 3, time_range)
    return _jpeg(frames[len(frames) // 2])


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


def _small_frames(source: Source, num_frames: int, time_range: tuple[float, float]) -> np.ndarray:
    size = probe(source).fit(SHORT_SIDE, LONG_SIDE)
    with warnings.catch_warnings(action="ignore", category=ClipVipWarning):  # the index reports damaged files
        return read_frames(source, num_frames=num_frames, time_range=time_range, size=size)


def _is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether it is in one of the picture formats; its size is checked before anything is decoded."""
    head = read_head(path)
    try:
        with Image.open(path, formats=formats_of(head)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise VideoDecodeError(
                    f"{os.fspath(path)}: a picture of {width} x {height} pixels; make it smaller than {MAX_PIXELS:,}"
                )
            return image.format != "GIF" or not getattr(image, "is_animated", False)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, Image.DecompressionBombError):
            raise VideoDecodeError(f"{os.fspath(path)}: a picture of too many pixels; make it smaller") from error
        return is_still(head)
    except (OSError, SyntaxError, ValueError) as error:
        raise VideoDecodeError(f"{os.fspath(path)}: damaged picture ({error})") from error


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


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
