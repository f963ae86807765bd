"""Writes synthetic worlds: media files and manifests, in parallel, the same bytes for the same seed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from clipvip.data.manifest import read_manifest, write_manifest
from clipvip.data.synthetic import texts
from clipvip.data.synthetic.caption_truth import caption_errors, middle_frame
from clipvip.data.synthetic.clips import Take, draw_take, render_clip
from clipvip.data.synthetic.render import write_image, write_video
from clipvip.data.synthetic.world import COLORS, Scenario, Splits, all_scenarios, order_blind_ceiling, split_scenarios
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
    files = _Files(out, seed, size.images, split_scenarios(seed, size.val, size.test))
    ceiling = order_blind_ceiling(files.splits.test)
    facts = {"version": WORLD_VERSION, "seed": seed, "size": asdict(size), "order_blind_ceiling": ceiling}
    parts: dict[str, tuple[Callable[[int], Clip], int]] = {
        "images": (files.image, size.images + size.val_images),
        "pretrain": (files.pretrain, size.pretrain),
        "train": (files.train, size.train),
        "val": (partial(files.held_out, "val"), len(files.splits.val)),
        "test": (partial(files.held_out, "test"), len(files.splits.test)),
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
    size = facts["size"]
    files = _Files(world, facts["seed"], size["images"], split_scenarios(facts["seed"], size["val"], size["test"]))
    captions = []
    for clip in read_manifest(captioned):
        if clip.caption:
            scenario, take, _ = files.draw_pretrain(int(clip.clip_id.removeprefix("pretrain")))
            captions.append((clip.caption, middle_frame(scenario, take)))
    colors = {color: (color,) for color in COLORS}
    return caption_errors(captions, {"shape": texts.NAMES, "color": colors, "scene": texts.PLACES})


@dataclass(frozen=True, slots=True)
class _Files:
    """Writes single files of the world, and returns them as clips."""

    out: Path
    seed: int
    num_train_images: int
    splits: Splits

    def image(self, number: int) -> Clip:
        rng = self._rng("images", number)
        still = replace(texts.pick(all_scenarios(), rng), event="still", target="")
        take = draw_take(rng)
        path = self.out / "images" / f"{number:05d}.png"
        write_image(path, render_clip(still, take, rng, moments=(0.0,))[0])
        split = "train" if number < self.num_train_images else "val"
        return Clip(f"image{number:05d}", image=path, captions=(texts.alt_text(still, take, rng),), split=split)

    def pretrain(self, number: int) -> Clip:
        scenario, take, rng = self.draw_pretrain(number)
        path = self._write("pretrain", number, render_clip(scenario, take, rng))
        subtitle = texts.subtitle(scenario, self.splits.train, rng)
        caption = texts.auxiliary_caption(scenario, take, rng)
        return Clip(f"pretrain{number:05d}", video=path, subtitle=subtitle, caption=caption, split="train")

    def draw_pretrain(self, number: int) -> tuple[Scenario, Take, np.random.Generator]:
        rng = self._rng("pretrain", number)
        return texts.pick(self.splits.train, rng), draw_take(rng), rng

    def train(self, number: int) -> Clip:
        rng = self._rng("train", number)
        scenario = self.splits.train[number % len(self.splits.train)]
        path = self._write("train", number, render_clip(scenario, draw_take(rng), rng))
        return Clip(f"train{number:05d}", video=path, captions=texts.training_captions(scenario, rng), split="train")

    def held_out(self, split: Literal["val", "test"], number: int) -> Clip:
        gallery = self.splits.val if split == "val" else self.splits.test
        scenario, partner = gallery[number], number ^ 1  # twins are neighbours
        has_twin = partner < len(gallery) and scenario != gallery[partner] == scenario.twin
        # twins share one take: the second one is the first one's frames backwards, to the pixel
        rng = self._rng(split, min(number, partner) if has_twin else number)
        is_reversed = has_twin and number > partner
        frames = render_clip(scenario.twin if is_reversed else scenario, draw_take(rng), rng)
        path = self._write(split, number, frames[::-1] if is_reversed else frames)
        captions = (texts.caption(scenario, self._rng(split, number, 1)),)
        extra = {"twin": f"{split}{partner:05d}"} if has_twin else {}
        return Clip(f"{split}{number:05d}", video=path, captions=captions, split=split, extra=extra)

    def _rng(self, part: str, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, _STREAMS[part], *numbers])

    def _write(self, part: str, number: int, frames: np.ndarray) -> Path:
        path = self.out / part / f"{number:05d}.mp4"
        write_video(path, frames)
        return path


def _make_chunk(chunk: tuple[str, Callable[[int], T], range]) -> list[T]:
    _, make, numbers = chunk
    return [make(number) for number in numbers]
