"""Frames of synthetic clips: backgrounds, shapes, stripes, the sensor's noise; and their files.

Every function is deterministic: the same arguments and the same random numbers give the same bytes.

Shapes: F frames of a clip, S = SIZE pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIZE = 48
OUTLINE = np.array((12, 12, 12), np.float32)
_ROW, _COL = np.mgrid[:SIZE, :SIZE]


@dataclass(frozen=True, slots=True)
class Sprite:
    """An object in front of the background.

    depth: pixels inside (positive) or outside (negative) its edge, [F or 1, S, S]. color: RGB, [F, S or 1, S or 1, 3].
    is_outlined: whether its edge is smooth and has a dark line around it.
    """

    depth: np.ndarray
    color: np.ndarray
    is_outlined: bool = True


def render_frames(background: np.ndarray, sprites: Sequence[Sprite], rng: np.random.Generator) -> np.ndarray:
    """The frames of a clip, uint8 [F, S, S, 3]. background: float32 [F or 1, S, S, 3]; rng: of the sensor's noise."""
    frames = background
    for sprite in sprites:
        depth = sprite.depth[..., None]  # [F, S, S, 1]
        if sprite.is_outlined:
            frames = frames + np.clip(depth + 1.5, 0, 1) * (OUTLINE - frames)
            frames += np.clip(depth, 0, 1) * (sprite.color - frames)
        else:
            frames = np.where(depth > 0, sprite.color, frames)
    frames = frames + 3 * rng.standard_normal((SIZE, SIZE, 3), np.float32)  # a fixed pattern: the same in all frames
    return np.clip(frames, 0, 255).astype(np.uint8)


def paint_background(
    color: Sequence[int], texture: str | None = None, rng: np.random.Generator | None = None
) -> np.ndarray:
    """A background, float32 [S, S, 3]. rng: for the textures that are drawn at random."""
    picture = np.tile(np.array(color, np.float32), (SIZE, SIZE, 1))
    phase = 0.0 if rng is None else rng.uniform(0, 2 * np.pi)
    match texture:
        case None:
            pass
        case "waves":
            picture += 14 * np.sin(_COL * 1.3 + phase)[..., None]
        case "dunes":
            picture += 12 * np.sin(_ROW * 0.5 + 0.2 * _COL + phase)[..., None]
        case "specks" if rng is not None:
            picture[rng.random((SIZE, SIZE)) < 0.02] = 210
        case "grid":
            picture[((_ROW + int(phase * 2)) % 12 < 1) | ((_COL + int(phase * 2)) % 12 < 1)] -= 40
        case "border":
            for edge in (np.s_[:4], np.s_[-4:], np.s_[:, :4], np.s_[:, -4:]):
                picture[edge] = (200, 150, 230)
        case "stars":
            for rows in (np.s_[2:7], np.s_[-7:-2]):
                picture[rows, 2:7] = picture[rows, -7:-2] = (250, 250, 250)
        case "flash":
            picture += 110
        case "dusk":
            picture *= 0.35
        case "floor":
            picture[-8:] = (90, 50, 30)
        case "dots":
            picture[2:6, np.arange(SIZE) % 12 // 4 == 1] = (30, 30, 30)
        case _:
            raise ValueError(f"unknown texture {texture!r}")
    return picture


def shape_depth(shape: str, dx: np.ndarray, dy: np.ndarray, r: np.ndarray | float) -> np.ndarray:
    """Pixels inside (positive) or outside (negative) a shape of radius r. dx, dy: distance from its centre."""
    across, along = abs(dx), abs(dy)
    match shape:
        case "circle":
            return r - np.hypot(dx, dy)
        case "square":
            return 0.85 * r - np.maximum(across, along)
        case "large square":
            return 0.88 * r - np.maximum(across, along)
        case "triangle":  # upright, equilateral
            return np.minimum(0.6 * r - dy, 0.5 * dy - 0.866 * across + 0.55 * r)
        case "tall triangle":
            return np.minimum(0.8 * r - dy, 0.55 * (dy + r) - across)
        case "cross" | "short cross":
            arm = r if shape == "short cross" else 1.05 * r
            upright = np.minimum(0.36 * r - across, arm - along)
            lying = np.minimum(arm - across, 0.36 * r - along)
            return np.maximum(upright, lying)
        case "ring":
            return np.minimum(r - np.hypot(dx, dy), np.hypot(dx, dy) - 0.42 * r)
        case "diamond":
            return 1.15 * r - (across + along)
        case "bar":
            return np.minimum(0.5 * r - across, r - along)
        case "crescent":
            return np.minimum(r - np.hypot(dx, dy), np.hypot(dx - 0.6 * r, dy) - 0.7 * r)
    raise ValueError(f"unknown shape {shape!r}")


def paint_stripes(color: Sequence[int], phase: float, axis: str, period: int) -> np.ndarray:
    """Stripes along an axis ("x" or "y"), float32 [S, S, 3]. phase: in periods; period: in pixels."""
    along = (_COL if axis == "x" else _ROW).astype(np.float32) + 0.5
    wave = np.cos(2 * np.pi * (along / period - phase))
    return np.array(color, np.float32) * (0.62 + 0.38 * wave[..., None])


def write_image(path: Path, frame: np.ndarray) -> None:
    """Write uint8 [S, S, 3] as PNG."""
    Image.fromarray(frame).save(path, compress_level=1)


def write_video(path: Path, frames: np.ndarray, fps: int = 8, options: dict[str, str] | None = None) -> None:
    """Encode uint8 [F, S, S, 3] as H.264 in MP4, deterministically (one thread). options: of the encoder."""
    options = {**(options or {"crf": "18"}), "preset": "ultrafast", "threads": "1"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.time_base = Fraction(1, fps)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
