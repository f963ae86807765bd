"""Writes synthetic worlds: media files and manifests, in parallel, the same bytes for the same seed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from clipvip.data.manifest import read_manifest, write_manifest
from clipvip.data.synthetic import texts
from clipvip.data.synthetic.caption_truth import caption_errors, middle_frame
from clipvip.data.synthetic.clips import Take, draw_take, render_clip
from clipvip.data.synthetic.render import write_image, write_video
from clipvip.data.synthetic.world import COLORS, Scenario, all_scenarios, order_blind_ceiling, split_scenarios
from clipvip.errors import UsageError
from clipvip.jobs import Pool, Worker, usable_cpus
from clipvip.records import Clip

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""
WORLD_VERSION = 2
"""Raised whenever the same seed would give other files."""
_CHUNK = 100
_STREAMS = {"images": 10, "pretrain": 11, "train": 12, "val": 13, "test": 14}
"""Of random numbers: what is drawn for one part does not depend on the others."""


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
    out: Path, seed: int = 0, size: WorldSize = WorldSize(), on_progress: Progress | None = None
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
    parts: dict[str, tuple[Callable[[int], Clip], int]] = {
        "images": (partial(_image, out, seed, size.images), size.images + size.val_images),
        "pretrain": (partial(_pretrain_clip, out, seed, splits.train), size.pretrain),
        "train": (partial(_train_clip, out, seed, splits.train), size.train),
        "val": (partial(_held_out_clip, out, seed, "val", splits.val), len(splits.val)),
        "test": (partial(_held_out_clip, out, seed, "test", splits.test), len(splits.test)),
    }

    def write_manifests(clips: Mapping[str, list[Clip]]) -> None:
        write_manifest(out / "images.jsonl", clips["images"])
        write_manifest(out / "pretrain.jsonl", clips["pretrain"])
        write_manifest(out / "retrieval.jsonl", [*clips["train"], *clips["val"], *clips["test"]])

    write_world(out, facts, parts, write_manifests, on_progress)
    return facts


def write_world(
    out: Path,
    facts: Mapping[str, Any],
    parts: Mapping[str, tuple[Callable[[int], T], int]],
    finish: Callable[[dict[str, list[T]]], None],
    on_progress: Progress | None = None,
    *,
    workers: int | None = None,
) -> None:
    """Write a world of any kind; a complete one with the same facts is kept, another one is replaced.

    Args: facts: the contents of `world.json`, which is written last. parts: folder -> a function that writes the file
        with a number, and how many there are; it must not depend on what else its process wrote. finish: gets what
        these functions returned, in order, and writes all other files. workers: processes; None: all cores.
    Raises: UsageError if `out` holds something else than a world.
    """
    marker, unfinished = out / "world.json", out / "world.unfinished"
    if marker.exists() and json.loads(marker.read_text()) == facts:
        return
    if out.exists() and any(out.iterdir()):
        if not (marker.exists() or unfinished.exists()):
            raise UsageError(f"{out}: not empty, and not a world made here; choose another folder")
        unfinished.touch()  # first and last: half a deleted world is neither complete nor somebody else's
        marker.unlink(missing_ok=True)
        for old in set(out.iterdir()) - {unfinished}:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    out.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    chunks = [
        (part, make, range(start, min(start + _CHUNK, count)))
        for part, (make, count) in parts.items()
        for start in range(0, count, _CHUNK)
    ]
    made: dict[str, list[T]] = {part: [] for part in parts}
    for part in parts:
        (out / part).mkdir()
    total, done = sum(count for _, count in parts.values()), 0
    with Pool([Worker() for _ in range(workers or usable_cpus())]) as pool:
        for (part, *_), results in zip(chunks, pool.map(_make_chunk, chunks), strict=True):
            made[part] += results
            done += len(results)
            if on_progress:
                on_progress(done, total)
    finish(made)
    unfinished.write_text(json.dumps(facts, indent=2))
    os.replace(unfinished, marker)


def captioner_errors(world: Path, captioned: Path) -> dict[str, float]:
    """How wrong the captions of a manifest are that was made of the world's `pretrain.jsonl`: see `caption_errors`.

    Clips without a caption are left out.
    """
    facts = json.loads((world / "world.json").read_text())
    pool = split_scenarios(facts["seed"], facts["size"]["val"], facts["size"]["test"]).train
    captions = []
    for clip in read_manifest(captioned):
        if clip.caption:
            scenario, take, _ = _pretrain_draw(facts["seed"], pool, int(clip.clip_id.removeprefix("pretrain")))
            captions.append((clip.caption, middle_frame(scenario, take)))
    colors = {color: (color,) for color in COLORS}
    return caption_errors(captions, {"shape": texts.NAMES, "color": colors, "scene": texts.PLACES})


def _make_chunk(chunk: tuple[str, Callable[[int], T], range]) -> list[T]:
    _, make, numbers = chunk
    return [make(number) for number in numbers]


def _image(out: Path, seed: int, num_train: int, number: int) -> Clip:
    rng = np.random.default_rng([seed, _STREAMS["images"], number])
    universe = all_scenarios()
    scenario = universe[int(rng.integers(len(universe)))]
    still = Scenario(scenario.shape, scenario.color, scenario.scene, "still")
    take = draw_take(rng)
    path = out / "images" / f"{number:05d}.png"
    write_image(path, render_clip(still, take, rng, moments=(0.0,))[0])
    split = "train" if number < num_train else "val"
    return Clip(f"image{number:05d}", image=path, captions=(texts.alt_text(still, take, rng),), split=split)


def _pretrain_clip(out: Path, seed: int, pool: Sequence[Scenario], number: int) -> Clip:
    scenario, take, rng = _pretrain_draw(seed, pool, number)
    path = out / "pretrain" / f"{number:05d}.mp4"
    write_video(path, render_clip(scenario, take, rng))
    subtitle = texts.subtitle(scenario, pool, rng)
    caption = texts.auxiliary_caption(scenario, take, rng)
    return Clip(f"pretrain{number:05d}", video=path, subtitle=subtitle, caption=caption, split="train")


def _pretrain_draw(seed: int, pool: Sequence[Scenario], number: int) -> tuple[Scenario, Take, np.random.Generator]:
    rng = np.random.default_rng([seed, _STREAMS["pretrain"], number])
    return pool[int(rng.integers(len(pool)))], draw_take(rng), rng


def _train_clip(out: Path, seed: int, pool: Sequence[Scenario], number: int) -> Clip:
    rng = np.random.default_rng([seed, _STREAMS["train"], number])
    scenario = pool[number % len(pool)]
    path = out / "train" / f"{number:05d}.mp4"
    write_video(path, render_clip(scenario, draw_take(rng), rng))
    return Clip(f"train{number:05d}", video=path, captions=texts.training_captions(scenario, rng), split="train")


def _held_out_clip(out: Path, seed: int, split: str, gallery: Sequence[Scenario], number: int) -> Clip:
    scenario = gallery[number]
    partner = number ^ 1  # twins are neighbours
    has_twin = partner < len(gallery) and scenario != gallery[partner] == scenario.twin
    # twins share one take: the second one is the first one's frames backwards, to the pixel
    rng = np.random.default_rng([seed, _STREAMS[split], min(number, partner) if has_twin else number])
    backwards = has_twin and number > partner
    frames = render_clip(scenario.twin if backwards else scenario, draw_take(rng), rng)
    path = out / split / f"{number:05d}.mp4"
    write_video(path, frames[::-1] if backwards else frames)
    words = np.random.default_rng([seed, _STREAMS[split], number, 1])
    extra = {"twin": f"{split}{partner:05d}"} if has_twin else {}
    return Clip(
        f"{split}{number:05d}", video=path, captions=(texts.caption(scenario, words),), split=split, extra=extra
    )
