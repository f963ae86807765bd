"""Small pictures of segments."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

THUMBNAIL_SIZE = (160, 320)
"""Widest and highest; only very tall videos reach the second."""


def make_thumbnail(frame: np.ndarray, width: int, height: int) -> bytes:
    """A JPEG of a frame, uint8 [H, W, 3], in the video's own shape (the processor may have had it squashed)."""
    scale = min(THUMBNAIL_SIZE[0] / width, THUMBNAIL_SIZE[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    jpeg = io.BytesIO()
    Image.fromarray(frame).resize(size).save(jpeg, "JPEG", quality=80)
    return jpeg.getvalue()
