"""Film strips for HTML pages: a few frames side by side, inline, so that the page is one file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from clipvip.video import probe, read_frames, read_image

GAP = 2
"""Grey pixels between frames."""
MAX_STRIP = 65_500
"""Pixels: JPEG takes no more."""


def film_strip(
    path: Path,
    time_range: tuple[float, float] | None = None,
    *,
    num_frames: int = 6,
    short_side: int | None = None,
) -> str:
    """Evenly spaced frames of a video, or of a part of it, as a JPEG data URI; short_side in pixels (default: as is).

    Raises: VideoDecodeError.
    """
    size = probe(path).fit(short_side, MAX_STRIP // num_frames - GAP)
    frames = read_frames(path, num_frames=num_frames, time_range=time_range, size=size)
    apart = np.pad(frames, ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=128)
    return image_uri(Image.fromarray(np.concatenate(list(apart), axis=1)))


def still(path: Path, *, short_side: int) -> str:
    """A picture as a JPEG data URI. Raises: VideoDecodeError."""
    picture = Image.fromarray(read_image(path))
    scale = min(short_side / min(picture.size), MAX_STRIP / max(picture.size))
    width, height = (max(round(side * scale), 1) for side in picture.size)
    return image_uri(picture.resize((width, height)))


def image_uri(image: Image.Image) -> str:
    """As JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return data_uri(buffer.getvalue(), "jpeg")


def data_uri(data: bytes, kind: str) -> str:
    """An image file of some kind ("png", "jpeg") as a URI."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
