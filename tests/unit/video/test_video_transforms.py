"""Frames to pixels against the vectors recorded from the released pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clipvip.errors import InputError
from clipvip.video.transforms import CLIP_MEAN, CLIP_STD, decoder_size, to_pixel_values

GOLDEN = load_file(Path(__file__).parents[2] / "data" / "io.safetensors")
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def frames(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("antialias", [False, True])
def test_squash_equals_the_recorded_resize(antialias):
    """Would catch another kernel, a wrong antialias flag, clamping, or a kept aspect ratio.

    The recorded input is not on the uint8 grid, so that grid is subtracted: the resize is linear.
    """
    recorded = GOLDEN["resize.input"]
    as_bytes = (recorded * 255).round()
    rest = recorded - as_bytes / 255
    ours = to_pixel_values(as_bytes.byte().permute(0, 2, 3, 1), 32, antialias=antialias, **PLAIN)
    ours += torch.nn.functional.interpolate(rest, (32, 32), mode="bicubic", align_corners=False, antialias=antialias)
    torch.testing.assert_close(ours, GOLDEN[f"resize.bicubic_antialias_{antialias}"], atol=2e-6, rtol=0)


def test_normalisation_equals_the_recorded_one():
    """Would catch ImageNet's mean and std, or a swapped channel order. The uint8 grid bounds the difference."""
    ours = to_pixel_values((GOLDEN["resize.input"] * 255).round().byte().permute(0, 2, 3, 1), 32)
    torch.testing.assert_close(ours, GOLDEN["resize.normalised_antialias_False"], atol=0.02, rtol=0)


def test_frames_that_fit_are_only_normalised():
    """Would catch an interpolation that blurs what the decoder has scaled already."""
    given = frames(32, 32)
    expected = (given / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    for resize in ("squash", "crop"):
        ours = to_pixel_values(given, 32, resize=resize)
        assert ours.dtype == torch.float32
        np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(48, 75), (75, 48), (20, 31), (33, 33)])
def test_crop_scales_the_shorter_side_and_cuts_the_centre(height, width):
    """Would catch a squash under another name, a corner crop, or height and width swapped. Oracle: Pillow's bicubic.

    Low contrast, because Pillow clamps between its two passes.
    """
    given = frames(height, width) // 2 + 64
    ours = to_pixel_values(given, 32, resize="crop", antialias=True, **PLAIN)
    long = 32 * max(height, width) // min(height, width)
    scaled_height, scaled_width = (32, long) if height <= width else (long, 32)
    top, left = round((scaled_height - 32) / 2), round((scaled_width - 32) / 2)
    for frame, pixels in zip(given, ours, strict=True):
        scaled = np.asarray(Image.fromarray(frame).resize((scaled_width, scaled_height), Image.Resampling.BICUBIC))
        cropped = scaled[top : top + 32, left : left + 32]
        np.testing.assert_allclose(pixels.clamp(0, 1).permute(1, 2, 0).numpy(), cropped / 255, atol=2 / 255)


def test_decoder_size_asks_for_what_needs_no_interpolation():
    """Would catch a decoder that squashes where the transform would have cropped."""
    assert decoder_size("squash", 224) == (224, 224)
    assert decoder_size("crop", 224) == 224


@pytest.mark.parametrize(
    "given", [frames(8, 8)[0], frames(8, 8) / 255, np.zeros((0, 8, 8, 3), np.uint8), np.zeros((1, 3, 8, 8), np.uint8)]
)
def test_what_is_not_uint8_frames_is_refused(given):
    """Would catch floats divided by 255 twice, and channels-first arrays read as pictures three pixels high."""
    with pytest.raises(InputError, match="frames must"):
        to_pixel_values(given, 8)


def test_an_unknown_resize_is_refused():
    """Would catch a typo in a processor's config that silently means the other mode."""
    for call in (lambda: to_pixel_values(frames(8, 8), 8, resize="cover"), lambda: decoder_size("cover", 8)):
        with pytest.raises(InputError, match="squash, crop"):
            call()
