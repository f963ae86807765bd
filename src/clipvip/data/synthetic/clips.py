"""What a scenario looks like: takes, and the frames of a clip.

Shapes: F frames of a clip, S = SIZE pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipvip.data.synthetic.render import OUTLINE, SIZE, Sprite, paint_background, render_frames, shape_depth
from clipvip.data.synthetic.world import Scenario

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
PLACES = {
    "meadow": ((92, 122, 78), "waves"),
    "desert": ((178, 150, 108), "dunes"),
    "night": ((26, 26, 52), "specks"),
    "street": ((118, 120, 124), "grid"),
}
"""Scene -> colour and texture of the background."""
_AXIS = np.arange(SIZE, dtype=np.float32) + 0.5


@dataclass(frozen=True, slots=True)
class Take:
    """What the camera adds to a scenario: where the object is, how large (pixels), and when the change happens."""

    x: float
    y: float
    radius: float
    cut: float


def draw_take(rng: np.random.Generator) -> Take:
    """A random take that keeps the object, and its jump, inside the frame; the change at 40 % to 60 % of the clip."""
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
    dx = _AXIS[None, None, :] - x.astype(np.float32)[:, None, None]  # [F, 1, S]
    dy = _AXIS[None, :, None] - y.astype(np.float32)[:, None, None]  # [F, S, 1]
    r = radius.astype(np.float32)[:, None, None]
    depth = shape_depth(scenario.shape, dx, dy, r)  # [F, S, S]
    if scenario.event == "reshape":
        depth = np.where(after[:, None, None], shape_depth(scenario.target, dx, dy, r), depth)
    depth = np.where(visible[:, None, None], depth, -np.inf)
    background = paint_scene(scenario.scene, rng)
    if scenario.event == "rescene":
        background = np.where(after[:, None, None, None], paint_scene(scenario.target, rng), background)
    return render_frames(background, [Sprite(depth, color[:, None, None])], rng)


def paint_scene(scene: str, rng: np.random.Generator) -> np.ndarray:
    """The background of a scene, float32 [1, S, S, 3]."""
    return paint_background(*PLACES[scene], rng)[None]
