"""Scenarios to pixels and H.264 files. Pure functions of (scenario, rng); the same seed gives the same bytes.

Shapes: F frames of a clip, S = SIZE pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from clipvip.data.synthetic.world import Scenario

SIZE = 48
FPS = 8
NUM_FRAMES = 25
"""25 frames, 3.1 s: 4 uniform frames are 0, 8, 16, 24, the same set when the clip is played backwards."""
WHOLE = tuple((np.arange(NUM_FRAMES) / (NUM_FRAMES - 1)).tolist())
"""The moments of a clip's frames, from its start (0) to its end (1)."""

RGB = {
    "red": (225, 40, 40),
    "green": (45, 195, 60),
    "blue": (50, 90, 235),
    "yellow": (240, 220, 50),
    "purple": (165, 60, 205),
    "white": (245, 245, 245),
}
GROUND = {"meadow": (92, 122, 78), "desert": (178, 150, 108), "night": (26, 26, 52), "street": (118, 120, 124)}
OUTLINE = np.array((12, 12, 12), np.float32)


@dataclass(frozen=True, slots=True)
class Take:
    """What the camera adds to a scenario: where the object is, how large (pixels), and when the change happens."""

    x: float
    y: float
    radius: float
    cut: float


def draw_take(rng: np.random.Generator) -> Take:
    """A random take that keeps the object, and its jump, inside the picture; the change at 40 % to 60 % of the clip."""
    return Take(rng.uniform(15, 33), rng.uniform(20, 34), rng.uniform(8, 12), rng.uniform(0.4, 0.6))


def render_clip(
    scenario: Scenario, take: Take, rng: np.random.Generator, moments: Sequence[float] = WHOLE
) -> np.ndarray:
    """The clip, uint8 [F, S, S, 3]. moments: when its frames are taken, F numbers from 0 (start) to 1 (end)."""
    t, num_frames = np.asarray(moments), len(moments)
    after = t >= take.cut
    x, y = np.full(num_frames, take.x), np.full(num_frames, take.y)
    radius, visible = np.full(num_frames, take.radius), np.ones(num_frames, bool)
    first, second = (t > 0.15) & (t < 0.45), (t > 0.55) & (t < 0.85)
    color = np.tile(np.array(RGB[scenario.color], np.float32), (num_frames, 1))
    match scenario.event:
        case "grow":
            radius = take.radius * (0.45 + 0.75 * t)
        case "shrink":
            radius = take.radius * (1.2 - 0.75 * t)
        case "appear":
            visible = after
        case "disappear":
            visible = ~after
        case "jump_dark" | "dark_jump":
            jump, dark = (first, second) if scenario.event == "jump_dark" else (second, first)
            y = y - 12.0 * jump
            color[dark] = OUTLINE
        case "recolor":
            color[after] = RGB[scenario.target]
    depth = _depth(scenario.shape, x, y, radius)
    if scenario.event == "reshape":
        depth = np.where(after[:, None, None], _depth(scenario.target, x, y, radius), depth)
    depth = np.where(visible[:, None, None], depth, -np.inf)[..., None]  # [F, S, S, 1]
    ground = _ground(scenario.scene, rng)[None]
    if scenario.event == "rescene":
        ground = np.where(after[:, None, None, None], _ground(scenario.target, rng), ground)
    edge, fill = np.clip(depth + 1.5, 0, 1), np.clip(depth, 0, 1)
    picture = ground + edge * (OUTLINE - ground)
    picture += fill * (color[:, None, None] - picture)
    return _photographed(picture, rng)


def render_place(scene: str, rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """A place where nothing is and nothing happens, uint8 [F, S, S, 3]: the same picture F times."""
    return np.repeat(_photographed(_ground(scene, rng)[None], rng), num_frames, axis=0)


def write_video(path: Path, frames: np.ndarray) -> None:
    """Encode uint8 [F, S, S, 3] as H.264 in MP4, deterministically (one thread)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "18", "preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _photographed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Float [F, S, S, 3] with the sensor's fixed pattern, as uint8."""
    picture = picture + 3 * rng.standard_normal((SIZE, SIZE, 3), np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _depth(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Pixels inside (positive) or outside (negative) the shape, float32 [F, S, S]; x, y, radius: [F]."""
    axis = np.arange(SIZE, dtype=np.float32) + 0.5
    dx = axis[None, None, :] - x.astype(np.float32)[:, None, None]
    dy = axis[None, :, None] - y.astype(np.float32)[:, None, None]
    r = radius.astype(np.float32)[:, None, None]
    match shape:
        case "circle":
            return r - np.hypot(dx, dy)
        case "square":
            return 0.85 * r - np.maximum(abs(dx), abs(dy))
        case "triangle":  # upright, equilateral
            return np.minimum(0.6 * r - dy, 0.5 * dy - 0.866 * abs(dx) + 0.55 * r)
        case "cross":
            upright = np.minimum(0.36 * r - abs(dx), 1.05 * r - abs(dy))
            lying = np.minimum(1.05 * r - abs(dx), 0.36 * r - abs(dy))
            return np.maximum(upright, lying)
    raise ValueError(f"unknown shape {shape!r}")


def _ground(scene: str, rng: np.random.Generator) -> np.ndarray:
    """A background with a texture of its own, float [S, S, 3]."""
    ground = np.tile(np.array(GROUND[scene], np.float32), (SIZE, SIZE, 1))
    row, col = np.mgrid[:SIZE, :SIZE]
    phase = rng.uniform(0, 2 * np.pi)
    match scene:
        case "meadow":
            ground += 14 * np.sin(col * 1.3 + phase)[..., None]
        case "desert":
            ground += 12 * np.sin(row * 0.5 + 0.2 * col + phase)[..., None]
        case "night":
            ground[rng.random((SIZE, SIZE)) < 0.02] = 210
        case "street":
            ground[((row + int(phase * 2)) % 12 < 1) | ((col + int(phase * 2)) % 12 < 1)] -= 40
    return ground
