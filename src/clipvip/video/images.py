"""Pictures as the encoder reads them: upright, 8-bit RGB, transparent parts on white.

H x W pixels (after EXIF orientation).
"""

from __future__ import annotations

import importlib
import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from clipvip.video.container import Source, decode_error, is_still, read_head, source_name

# Pillow knows more formats, among them EPS, which runs a program.
IMAGES = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", *(["AVIF"] if features.check("avif") else []))
WHITES = {"I": (255.0, 65_535.0), "F": (1.0, 255.0, 65_535.0)}
"""What white may be in grey pictures of 32 bits, by Pillow's mode: integers, floats."""


def read_image(source: Source) -> np.ndarray:
    """Read a picture (path, bytes or binary file object) and turn it as its EXIF tag says.

    Grey pictures of 16 bits are scaled to 8. In those of 32 bits, and of floats, white is the smallest of `WHITES` that
    no pixel exceeds, or else the largest pixel. Transparent parts show white.

    Returns: uint8 [H, W, 3], RGB.
    Raises: VideoDecodeError; InputError for what is no source.
    """
    head = read_head(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats_of(head)) as image:
            return image_to_array(image)
    except UnidentifiedImageError as error:
        if is_still(head):
            reason = "a HEIC or AVIF picture that cannot be read here"
            raise decode_error(source_name(source), reason, "pip install pi-heif, or save it as JPEG") from error
        raise decode_error(source_name(source), f"not a picture in one of the formats {', '.join(IMAGES)}") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise decode_error(source_name(source), f"damaged picture ({error})") from error


def image_to_array(image: Image.Image) -> np.ndarray:
    """An opened image as `read_image` returns it, uint8 [H, W, 3]."""
    return np.array(_rgb(ImageOps.exif_transpose(image)))


def formats_of(head: bytes) -> tuple[str, ...]:
    """Pillow's names of the formats that are read, for a file that begins so: HEIC needs a package of its own."""
    return (*IMAGES, "HEIF") if is_still(head) and _reads_heif() else IMAGES


@lru_cache(maxsize=1)
def _reads_heif() -> bool:
    try:
        importlib.import_module("pi_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):  # of these, Pillow would clip all above 255
        return Image.fromarray(_eight_bit(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bit(grey: np.ndarray, mode: str) -> np.ndarray:
    """Grey values [H, W] of Pillow's modes F, I and I;16 (any byte order) to uint8."""
    values = np.nan_to_num(grey.astype(np.float64), posinf=0.0).clip(min=0.0)
    largest = float(values.max())
    whites = WHITES.get(mode, (65_535.0,))
    white = next((white for white in whites if largest <= white), largest)
    return np.rint(values * (255 / white)).astype(np.uint8)
