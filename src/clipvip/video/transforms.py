"""uint8 frames to the float tensors that a CLIP vision encoder reads.

Shapes: T frames, H x W their size, S = image_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from clipvip.errors import InputError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

RESIZE_MODES = ("squash", "crop")


def to_pixel_values(
    frames: np.ndarray | torch.Tensor,
    image_size: int,
    *,
    resize: str = "squash",
    antialias: bool = False,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> torch.Tensor:
    """Frames uint8 [T, H, W, 3] to normalised pixels float32 [T, 3, S, S].

    "squash" scales both sides to `image_size`; "crop" scales the shorter side and cuts the centre out, as CLIP
    does. The scaling is bicubic on floats and not clamped; frames that already fit are not interpolated.

    Raises: InputError for any other shape, dtype or mode.
    Source: the released data pipeline (squash, antialias=False); OpenAI's CLIP preprocessing (crop).
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise InputError(f"frames must have the shape [T, H, W, 3], not {list(frames.shape)}")
    if frames.dtype not in (np.uint8, torch.uint8):
        raise InputError(f"frames must be uint8 in 0..255, not {frames.dtype}")
    height, width = _scaled_size(frames.shape[1], frames.shape[2], resize, image_size)
    top, left = _corner(height, width, image_size)

    pixels = torch.as_tensor(frames).float().permute(0, 3, 1, 2)  # [T, 3, H, W], a view: the model reorders anyway
    if pixels.shape[-2:] != (height, width):
        pixels = F.interpolate(pixels, (height, width), mode="bicubic", align_corners=False, antialias=antialias)
    pixels = pixels[..., top : top + image_size, left : left + image_size]
    centre, spread = _scale(tuple(mean), tuple(std), pixels.device)
    return (pixels - centre).div_(spread)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # whoever asks first, training may ask next
def _scale(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """0..255 to 0..1 and the normalisation at once, [1, 3, 1, 1] each; kept, as making them stalls a GPU."""
    centre, spread = 255 * torch.tensor([mean, std], device=device).view(2, 1, 3, 1, 1)
    return centre, spread


def centre_cut(frames: np.ndarray, image_size: int, resize: str) -> np.ndarray | None:
    """The part of uint8 frames [T, H, W, 3] that `to_pixel_values` keeps, [T, S, S, 3]; None if it would scale them."""
    height, width = frames.shape[1:3]
    if (height, width) != _scaled_size(height, width, resize, image_size):
        return None
    top, left = _corner(height, width, image_size)
    return frames[:, top : top + image_size, left : left + image_size]


def decoder_size(resize: str, image_size: int) -> tuple[int, int] | int:
    """What to hand to `read_frames` as `size` so that the decoder does the scaling and `to_pixel_values` only crops."""
    return (image_size, image_size) if _checked(resize) == "squash" else image_size


def _corner(height: int, width: int, image_size: int) -> tuple[int, int]:
    """Top left of the square that is cut out. Half pixels round to even, as in torchvision's centre crop."""
    return round((height - image_size) / 2), round((width - image_size) / 2)


def _scaled_size(height: int, width: int, resize: str, image_size: int) -> tuple[int, int]:
    if _checked(resize) == "squash":
        return image_size, image_size
    short, long = sorted((height, width))
    scaled = image_size * long // short
    return (image_size, scaled) if height <= width else (scaled, image_size)


def _checked(resize: str) -> str:
    if resize not in RESIZE_MODES:
        raise InputError(f"resize must be one of {', '.join(RESIZE_MODES)}, not {resize!r}")
    return resize
