"""Writes the small world: media files and manifests, in parallel, the same bytes for the same seed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipvip.data.manifest import read_manifest, write_manifest
from clipvip.data.synthetic import texts
from clipvip.data.synthetic.middle import caption_errors, middle_frame
from clipvip.data.synthetic.render import Take, draw_take, render_clip, write_video
from clipvip.data.synthetic.world import COLORS, Scenario, all_scenarios, order_blind_ceiling, split_scenarios
from clipvip.errors import UsageError
from clipvip.jobs import Pool, Worker, usable_cpus
from clipvip.records import Clip

WORLD_VERSION = 2
"""Raised whenever the same seed would give other files."""
_CHUNK = 100
_IMAGES, _PRETRAIN, _TRAIN, _VAL, _TEST = range(10, 15)  # streams of random numbers that never meet


@dataclass(frozen=True, slots=True)
class WorldSize:
    """How many files of each kind."""

    images: int = 12_000
    val_images: int = 300
    pretrain: int = 4_000
    train: int = 3_000
    val: int = 300
    test: int = 500


SMOKE = WorldSize(images=600, val_images=60, pretrain=200, train=200, val=40, test=60)


def make_world(
    out: Path, seed: int = 0, size: WorldSize = WorldSize(), on_progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Write the world under `out` on all cores; a complete one of the same seed and size is kept.

    on_progress: called with (files done, files in all). Returns: the contents of `world.json`.
    Raises: UsageError if `out` holds something else than a world.
    """
    out = out.absolute()
    splits = split_scenarios(seed, size.val, size.test)
    facts = {
        "version": WORLD_VERSION,
        "seed": seed,
        "size": asdict(size),
        "order_blind_ceiling": order_blind_ceiling(splits.test),
    }
    marker, unfinished = out / "world.json", out / "world.unfinished"
    if marker.exists() and json.loads(marker.read_text()) == facts:
        return facts
    if out.exists() and any(out.iterdir()):
        if not (marker.exists() or unfinished.exists()):
            raise UsageError(f"{out}: not empty, and not a world made here; choose another folder")
        unfinished.touch()  # first and last: half a deleted world is neither whole nor somebody else's
        marker.unlink(missing_ok=True)
        for old in set(out.iterdir()) - {unfinished}:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    out.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    for folder in ("images", "pretrain", "train", "val", "test"):
        (out / folder).mkdir(parents=True)

    tasks: list[tuple[str, Callable[[int], Clip], int]] = [
        ("images.jsonl", partial(_image, out, seed, size.images), size.images + size.val_images),
        ("pretrain.jsonl", partial(_pretrain_clip, out, seed, splits.train), size.pretrain),
        ("retrieval.jsonl", partial(_train_clip, out, seed, splits.train), size.train),
        ("retrieval.jsonl", partial(_held_out_clip, out, seed, "val", splits.val), len(splits.val)),
        ("retrieval.jsonl", partial(_held_out_clip, out, seed, "test", splits.test), len(splits.test)),
    ]
    manifests: dict[str, list[Clip]] = {}
    total, done = sum(count for *_, count in tasks), 0
    chunks = [
        (name, make, range(start, min(start + _CHUNK, count)))
        for name, make, count in tasks
        for start in range(0, count, _CHUNK)
    ]
    with Pool([Worker() for _ in range(usable_cpus())]) as pool:
        for (name, *_), clips in zip(chunks, pool.map(_make_chunk, chunks), strict=True):
            manifests.setdefault(name, []).extend(clips)
            done += len(clips)
            if on_progress:
                on_progress(done, total)
    for name, clips in manifests.items():
        write_manifest(out / name, clips)
    unfinished.write_text(json.dumps(facts, indent=2))
    os.replace(unfinished, marker)
    return facts


def captioner_errors(world: Path, captioned: Path) -> dict[str, float]:
    """How wrong the captions of a manifest are that was made of the world's `pretrain.jsonl`: see `caption_errors`.

    Clips without a caption are left out.
    """
    facts = json.loads((world / "world.json").read_text())
    pool = split_scenarios(facts["seed"], facts["size"]["val"], facts["size"]["test"]).train
    told = []
    for clip in read_manifest(captioned):
        if clip.caption:
            scenario, take, _ = _pretrain_draw(facts["seed"], pool, int(clip.clip_id.removeprefix("pretrain")))
            told.append((clip.caption, middle_frame(scenario, take)))
    colors = {color: (color,) for color in COLORS}
    return caption_errors(told, {"shape": texts.NAMES, "color": colors, "scene": texts.PLACES})


def _make_chunk(chunk: tuple[str, Callable[[int], Clip], range]) -> list[Clip]:
    _, make, numbers = chunk
    return [make(number) for number in numbers]


def _image(out: Path, seed: int, num_train: int, number: int) -> Clip:
    rng = np.random.default_rng([seed, _IMAGES, number])
    universe = all_scenarios()
    scenario = universe[int(rng.integers(len(universe)))]
    still = Scenario(scenario.shape, scenario.color, scenario.scene, "still")
    take = draw_take(rng)
    path = out / "images" / f"{number:05d}.png"
    Image.fromarray(render_clip(still, take, rng, moments=(0.0,))[0]).save(path, compress_level=1)
    split = "train" if number < num_train else "val"
    return Clip(f"image{number:05d}", image=path, captions=(texts.alt_text(still, take, rng),), split=split)


def _pretrain_clip(out: Path, seed: int, pool: Sequence[Scenario], number: int) -> Clip:
    scenario, take, rng = _pretrain_draw(seed, pool, number)
    path = out / "pretrain" / f"{number:05d}.mp4"
    write_video(path, render_clip(scenario, take, rng))
    said = texts.subtitle(scenario, pool, rng)
    seen = texts.auxiliary_caption(scenario, take, rng)
    return Clip(f"pretrain{number:05d}", video=path, subtitle=said, caption=seen, split="train")


def _pretrain_draw(seed: int, pool: Sequence[Scenario], number: int) -> tuple[Scenario, Take, np.random.Generator]:
    rng = np.random.default_rng([seed, _PRETRAIN, number])
    return pool[int(rng.integers(len(pool)))], draw_take(rng), rng


def _train_clip(out: Path, seed: int, pool: Sequence[Scenario], number: int) -> Clip:
    rng = np.random.default_rng([seed, _TRAIN, number])
    scenario = pool[number % len(pool)]
    path = out / "train" / f"{number:05d}.mp4"
    write_video(path, render_clip(scenario, draw_take(rng), rng))
    return Clip(f"train{number:05d}", video=path, captions=texts.training_captions(scenario, rng), split="train")


def _held_out_clip(out: Path, seed: int, split: str, gallery: Sequence[Scenario], number: int) -> Clip:
    scenario = gallery[number]
    partner = number ^ 1  # twins are neighbours
    has_twin = partner < len(gallery) and scenario != gallery[partner] == scenario.twin
    # twins share one take: the second one is the first one's frames backwards, to the pixel
    stream = _VAL if split == "val" else _TEST
    rng = np.random.default_rng([seed, stream, min(number, partner) if has_twin else number])
    backwards = has_twin and number > partner
    frames = render_clip(scenario.twin if backwards else scenario, draw_take(rng), rng)
    path = out / split / f"{number:05d}.mp4"
    write_video(path, frames[::-1] if backwards else frames)
    words = np.random.default_rng([seed, stream, number, 1])
    extra = {"twin": f"{split}{partner:05d}"} if has_twin else {}
    return Clip(
        f"{split}{number:05d}", video=path, captions=(texts.caption(scenario, words),), split=split, extra=extra
    )
