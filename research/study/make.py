"""Writes a world of the study: files once, by (family, seed, number of objects); manifests for each use of them.

    images/ pretrain/ train/ val/ test/     media
    tokenizer/                              trained on the training texts
    world.json                              which world; written last, it means complete

Texts are not in the world: a manifest is a view of it (`write_view`), a function of the same seeds.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from clipvip.data import write_manifest
from clipvip.errors import UsageError
from clipvip.jobs import end_with_parent
from clipvip.records import Clip
from study import texts
from study.families import FAMILIES, Family
from study.render import render_clip, render_frame, write_intra_video
from study.world import NUM_FRAMES, Take, Told, all_told, draw_take, take_groups

WORLD_VERSION = 1
"""Raised whenever the same seed would give other files or texts."""
_CHUNK = 200
_ASIDE = 6.0  # pixels
_STREAMS = {"images": 20, "pretrain": 21, "train": 22, "val": 23, "test": 24, "texts": 25}


@dataclass(frozen=True)
class WorldSize:
    """How many media files; `val` and `test` are counted in full factorials, each combination once."""

    images: int = 1200
    pretrain: int = 1600
    train: int = 800
    val: int = 0
    test: int = 3


@dataclass(frozen=True)
class World:
    """Which world. num_objects: None for the main one (one large object, states)."""

    family: str = "A"
    seed: int = 0
    num_objects: int | None = None
    size: WorldSize = WorldSize()

    @property
    def name(self) -> str:
        """For folders and people."""
        kind = "" if self.num_objects is None else f"-objects{self.num_objects}"
        return f"{self.family}{self.seed}{kind}"


@dataclass(frozen=True)
class View:
    """Which of a world's clips with which texts make a manifest.

    part: "images" (alt texts), "pretrain" (subtitles and auxiliary captions) or "downstream" (captions; the splits
    train, val, test). share: of the clips of "pretrain" or of the training clips of "downstream" that are in it.
    asked: the attributes that captions tell. paragraphs: captions are sentences to be joined. relevance: of subtitles.
    """

    part: Literal["images", "pretrain", "downstream"]
    asked: str = "AMO"
    paragraphs: bool = False
    share: float = 1.0
    relevance: float = 0.4


@dataclass(frozen=True)
class Shown:
    """One file of a world: what can be told of it, in `val` and `test` which full factorial it belongs to, of an image
    which frame it is and on which side (0 or 1, along the family's axis) each object stands.
    """

    part: str
    number: int
    told: Told
    gallery: int = 0
    frame: int = 0
    sides: tuple[int, ...] = ()

    @property
    def clip_id(self) -> str:
        """Unique in its world."""
        return f"{self.part}{self.number:05d}"

    @property
    def path(self) -> str:
        """Relative to the world."""
        return f"{self.part}/{self.number:05d}.{'png' if self.part == 'images' else 'mp4'}"


def make_world(
    world: World, folder: Path, workers: int = 1, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the world; a complete one of the same kind is kept. Raises: UsageError if `folder` holds something else."""
    marker = folder / "world.json"
    facts = {"version": WORLD_VERSION, **asdict(world)}
    if marker.exists():
        if json.loads(marker.read_text(encoding="utf-8")) != facts:
            raise UsageError(f"{folder}: holds another world; choose another --workdir, or delete that folder")
        return
    shutil.rmtree(folder / "unfinished", ignore_errors=True)
    unfinished = folder / "unfinished"
    for part in ("images", "pretrain", "train", "val", "test"):
        (unfinished / part).mkdir(parents=True)
    files = list(_plan(world))
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=end_with_parent) as pool:
        for done, _ in enumerate(pool.map(partial(_write_files, world, unfinished), chunks), 1):
            if on_progress:
                on_progress(min(done * _CHUNK, len(files)), len(files))
    _train_tokenizer(world, unfinished / "tokenizer")
    for made in list(unfinished.iterdir()):
        shutil.rmtree(folder / made.name, ignore_errors=True)  # of a run that ended while it moved them
        os.replace(made, folder / made.name)
    unfinished.rmdir()
    marker.write_text(json.dumps(facts, indent=2), encoding="utf-8")


@lru_cache(maxsize=8)
def shown(world: World) -> tuple[Shown, ...]:
    """What each file of a world shows."""
    return tuple(item for item, _ in _plan(world))


def write_view(world: World, view: View, folder: Path, path: Path) -> None:
    """Write the manifest of a view of the world in `folder`."""
    write_manifest(path, view_clips(world, view, folder))


def view_clips(world: World, view: View, folder: Path) -> list[Clip]:
    """The clips of a view. Texts depend on (seed, clip, view) alone; a smaller share is part of a larger one."""
    items = [item for item in shown(world) if _belongs(item, view)]
    limits = {"pretrain": world.size.pretrain, "train": world.size.train}
    kept = [item for item in items if item.number < view.share * limits.get(item.part, np.inf)]
    pool = [item.told for item in items]
    return [_clip(world, view, item, folder, pool) for item in kept]


def _belongs(item: Shown, view: View) -> bool:
    return item.part in ("train", "val", "test") if view.part == "downstream" else item.part == view.part


def _clip(world: World, view: View, item: Shown, folder: Path, pool: list[Told]) -> Clip:
    family = FAMILIES[world.family]
    rng = np.random.default_rng([world.seed, _STREAMS["texts"], _STREAMS[item.part], item.number])
    path = (folder / item.path).absolute()
    match view.part:
        case "images":
            said = texts.alt_text(item.told, item.frame, item.sides, family, rng)
            return Clip(item.clip_id, image=path, captions=(said,), split="train")
        case "pretrain":
            seen = texts.auxiliary_caption(item.told, family, rng)
            heard = texts.subtitle(item.told, pool, view.relevance, family, rng)
            return Clip(item.clip_id, video=path, subtitle=heard, caption=seen, split="train")
    if view.paragraphs:
        captions = texts.paragraph(item.told, view.asked, family, rng)
    else:
        captions = [texts.sentence(item.told, view.asked, family, rng)]
        if item.part == "train" and len(view.asked) > 1:
            captions += texts.partial_sentences(item.told, view.asked, family, rng)
    extra = {} if item.part == "train" else {"gallery": item.gallery}
    return Clip(item.clip_id, video=path, captions=tuple(captions), split=item.part, extra=extra)


def _plan(world: World) -> Iterator[tuple[Shown, Take]]:
    """Every file of a world and its take, in a fixed order."""
    family = FAMILIES[world.family]
    universe = all_told(family, world.num_objects)
    for part, count in (("images", world.size.images), ("pretrain", world.size.pretrain), ("train", world.size.train)):
        for number in range(count):
            rng = _rng(world, part, number)
            told = universe[int(rng.integers(len(universe)))]
            take = draw_take(told, family, rng)
            if part == "images":
                yield _image(number, told, take, family, rng)
            else:
                yield Shown(part, number, told), take
    groups = take_groups(family, universe)
    for part, count in (("val", world.size.val), ("test", world.size.test)):
        for number in range(count * len(universe)):
            gallery, index = divmod(number, len(universe))
            take = draw_take(universe[index], family, _rng(world, part, gallery * len(universe) + groups[index]))
            yield Shown(part, number, universe[index], gallery=gallery), take


def _image(number: int, told: Told, take: Take, family: Family, rng: np.random.Generator) -> tuple[Shown, Take]:
    """A still picture: one frame, with the one object moved aside (several stand on one side or the other anyway)."""
    frame, along_x = int(rng.integers(NUM_FRAMES)), family.axis == "x"
    sides: tuple[int, ...]
    if told.states:
        side, (x, y) = int(rng.integers(2)), take.offset
        aside = (2 * side - 1) * _ASIDE
        take, sides = replace(take, offset=(x + aside, y) if along_x else (x, y + aside)), (side,)
    else:
        sides = tuple(place % 2 if along_x else place // 2 for place in take.places)
    return Shown("images", number, told, frame=frame, sides=sides), take


def _rng(world: World, part: str, number: int) -> np.random.Generator:
    return np.random.default_rng([world.seed, _STREAMS[part], world.num_objects or 0, number])


def _write_files(world: World, folder: Path, files: list[tuple[Shown, Take]]) -> None:
    family = FAMILIES[world.family]
    for item, take in files:
        path = folder / item.path
        if item.part == "images":
            Image.fromarray(render_frame(item.told, take, family, item.frame)).save(path, compress_level=1)
        else:
            write_intra_video(path, render_clip(item.told, take, family))


def _train_tokenizer(world: World, folder: Path) -> None:
    from clipvip.model import train_clip_tokenizer

    said: list[str] = []
    for view in (View("images"), View("pretrain"), View("downstream"), View("downstream", paragraphs=True)):
        for clip in view_clips(world, view, folder):
            if clip.split == "train":
                said += [*clip.captions, *(text for text in (clip.subtitle, clip.caption) if text)]
    train_clip_tokenizer(said).save_pretrained(folder)
