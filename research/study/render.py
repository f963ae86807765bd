"""Pixels and files of the study's clips.

Shapes: F = NUM_FRAMES frames, S = SIZE pixels.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from study.families import Family
from study.world import NUM_FRAMES, Take, Told, phase, state_of

SIZE = 48
FPS = 2
PERIOD = 16
"""Of the stripes, in pixels: that of a patch, so that motion is something inside patches."""
_LARGE, _SMALL = 17.0, 7.5  # radius of the one object, and of several, each in a patch of its own
_ROW, _COL = np.mgrid[:SIZE, :SIZE].astype(np.float32) + 0.5


def render_clip(told: Told, take: Take, family: Family) -> np.ndarray:
    """The clip, uint8 [F, S, S, 3]."""
    return np.stack([render_frame(told, take, family, frame) for frame in range(NUM_FRAMES)])


def render_frame(told: Told, take: Take, family: Family, frame: int) -> np.ndarray:
    """One frame, uint8 [S, S, 3]."""
    picture = np.broadcast_to(np.array(family.grounds[take.ground], np.float32), (SIZE, SIZE, 3)).copy()
    _paint_state(picture, state_of(told, frame))
    along = _COL if family.axis == "x" else _ROW
    for number, thing in enumerate(told.things):
        if told.states:
            x, y, radius = SIZE / 2, SIZE / 2, _LARGE
        else:
            place = take.places[number]
            x, y, radius = SIZE * (0.25 + 0.5 * (place % 2)), SIZE * (0.25 + 0.5 * (place // 2)), _SMALL
        inside = _inside(thing.shape, _COL - x - take.offset[0], _ROW - y - take.offset[1], radius)
        wave = np.cos(2 * np.pi * (along / PERIOD - phase(take, told, number, frame)))
        stripes = np.array(family.colors[thing.color], np.float32) * (0.62 + 0.38 * wave[..., None])
        picture[inside] = stripes[inside]
    # the sensor's fixed pattern: the same in all frames, so that twins have the same frames
    picture += 3 * np.random.default_rng(take.noise).standard_normal(picture.shape, np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_intra_video(path: Path, frames: np.ndarray) -> None:
    """Encode uint8 [F, S, S, 3] as H.264 in MP4, every frame for itself with one quantiser.

    Frames predicted from others would carry traces of their neighbours, and with them of what no single frame may show.
    """
    options = {"qp": "14", "g": "1", "preset": "ultrafast", "threads": "1"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _paint_state(picture: np.ndarray, state: str | None) -> None:
    match state:
        case None:
            pass
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
            raise ValueError(f"unknown state {state!r}")


def _inside(shape: str, dx: np.ndarray, dy: np.ndarray, r: float) -> np.ndarray:
    """Which pixels a shape covers, bool [S, S]."""
    match shape:
        case "circle":
            return np.hypot(dx, dy) < r
        case "square":
            return np.maximum(abs(dx), abs(dy)) < 0.88 * r
        case "triangle":  # upright
            return (dy < 0.8 * r) & (abs(dx) < 0.55 * (dy + r))
        case "cross":
            return (np.minimum(abs(dx), abs(dy)) < 0.36 * r) & (np.maximum(abs(dx), abs(dy)) < r)
        case "ring":
            return (np.hypot(dx, dy) < r) & (np.hypot(dx, dy) > 0.42 * r)
        case "diamond":
            return abs(dx) + abs(dy) < 1.15 * r
        case "bar":
            return (abs(dx) < 0.5 * r) & (abs(dy) < r)
        case "crescent":
            return (np.hypot(dx, dy) < r) & (np.hypot(dx - 0.6 * r, dy) > 0.7 * r)
    raise ValueError(f"unknown shape {shape!r}")
