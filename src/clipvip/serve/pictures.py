"""Pictures of indexed videos, and the pixels of what somebody uploads. Runs in supervised processes.

Shapes: T frames, H x W pixels, S image size of the model.
"""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from clipvip.errors import ClipVipWarning, VideoDecodeError
from clipvip.video import Source, formats_of, is_still, probe, read_frames, read_head, read_image

if TYPE_CHECKING:
    from clipvip.model import ClipVipProcessor

STRIP_FRAMES = 6
SHORT_SIDE, LONG_SIDE = 120, 960
"""Pixels of a frame in a strip, whose length JPEG limits."""
MAX_PIXELS = 40_000_000
"""Of an uploaded picture: 8K video has 33 million."""


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
