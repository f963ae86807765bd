"""A world of the study: media files by (family, seed, number of objects), and manifests for each use of them.

    images/ pretrain/ train/ val/ test/     media
    tokenizer/                              trained on the training texts
    world.json                              which world; written last, it means complete

Texts are not in the world: a manifest is a view of it (`write_view`), a function of the same seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from clipvip.data import write_manifest
from clipvip.data.synthetic import write_image, write_video, write_world
from clipvip.records import Clip
from study import texts
from study.families import FAMILIES, Family
from study.world import NUM_FRAMES, Scenario, Take, all_scenarios, draw_take, render_clip, take_groups

WORLD_VERSION = 1
"""Raised whenever the same seed would give other files or texts."""
FPS = 2
INTRA = {"qp": "14", "g": "1"}
"""H.264 with every frame coded for itself, with one quantiser: frames predicted from others would carry traces of their
neighbours, and with them of what no single frame may show."""
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
    asked: the attributes that captions describe. paragraphs: captions are sentences to be joined.
    relevance: of subtitles.
    """

    part: Literal["images", "pretrain", "downstream"]
    asked: str = "AMO"
    paragraphs: bool = False
    share: float = 1.0
    relevance: float = 0.4


@dataclass(frozen=True)
class File:
    """One file of a world: what it shows, in `val` and `test` which full factorial it belongs to, of an image which
    frame it is and on which side (0 or 1, along the family's axis) each object is.
    """

    part: str
    number: int
    scenario: Scenario
    take: Take
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
    world: World, folder: Path, workers: int | None = None, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the world; a complete one of the same kind is kept. Raises: UsageError if `folder` holds something else."""
    write_world(
        folder,
        {"version": WORLD_VERSION, **asdict(world)},
        {part: (partial(_write_file, world, folder, part), len(files)) for part, files in world_files(world).items()},
        lambda _: _train_tokenizer(world, folder / "tokenizer"),
        on_progress,
        workers=workers,
    )


@lru_cache(maxsize=8)
def world_files(world: World) -> dict[str, list[File]]:
    """Part -> its files, in order."""
    family = FAMILIES[world.family]
    universe = all_scenarios(family, world.num_objects)
    files: dict[str, list[File]] = {}
    for part, count in (("images", world.size.images), ("pretrain", world.size.pretrain), ("train", world.size.train)):
        files[part] = [_drawn_file(world, part, number, universe, family) for number in range(count)]
    groups = take_groups(family, universe)
    for part, count in (("val", world.size.val), ("test", world.size.test)):
        files[part] = []
        for number in range(count * len(universe)):
            gallery, index = divmod(number, len(universe))
            take = draw_take(universe[index], family, _rng(world, part, gallery * len(universe) + groups[index]))
            files[part].append(File(part, number, universe[index], take, gallery=gallery))
    return files


def write_view(world: World, view: View, folder: Path, path: Path) -> None:
    """Write the manifest of a view of the world in `folder`."""
    write_manifest(path, view_clips(world, view, folder))


def view_clips(world: World, view: View, folder: Path) -> list[Clip]:
    """The clips of a view. Texts depend on (seed, clip, view) alone; a smaller share is part of a larger one."""
    parts = ("train", "val", "test") if view.part == "downstream" else (view.part,)
    files = [file for part in parts for file in world_files(world)[part]]
    limits = {"pretrain": world.size.pretrain, "train": world.size.train}
    pool = [file.scenario for file in files]
    return [
        _clip(world, view, file, folder, pool)
        for file in files
        if file.number < view.share * limits.get(file.part, np.inf)
    ]


def _clip(world: World, view: View, file: File, folder: Path, pool: list[Scenario]) -> Clip:
    family = FAMILIES[world.family]
    rng = np.random.default_rng([world.seed, _STREAMS["texts"], _STREAMS[file.part], file.number])
    path = (folder / file.path).absolute()
    match view.part:
        case "images":
            said = texts.alt_text(file.scenario, file.frame, file.sides, family, rng)
            return Clip(file.clip_id, image=path, captions=(said,), split="train")
        case "pretrain":
            seen = texts.auxiliary_caption(file.scenario, family, rng)
            heard = texts.subtitle(file.scenario, pool, view.relevance, family, rng)
            return Clip(file.clip_id, video=path, subtitle=heard, caption=seen, split="train")
    if view.paragraphs:
        captions = texts.paragraph(file.scenario, view.asked, family, rng)
    else:
        captions = [texts.sentence(file.scenario, view.asked, family, rng)]
        if file.part == "train" and len(view.asked) > 1:
            captions += texts.partial_sentences(file.scenario, view.asked, family, rng)
    extra = {} if file.part == "train" else {"gallery": file.gallery}
    return Clip(file.clip_id, video=path, captions=tuple(captions), split=file.part, extra=extra)


def _drawn_file(world: World, part: str, number: int, universe: list[Scenario], family: Family) -> File:
    """A file for training: any scenario, any take."""
    rng = _rng(world, part, number)
    scenario = universe[int(rng.integers(len(universe)))]
    take = draw_take(scenario, family, rng)
    if part != "images":
        return File(part, number, scenario, take)
    # one frame, with the one object moved aside (several are on one side or the other anyway)
    frame, along_x = int(rng.integers(NUM_FRAMES)), family.axis == "x"
    if not scenario.states:
        sides = tuple(place % 2 if along_x else place // 2 for place in take.places)
        return File(part, number, scenario, take, frame=frame, sides=sides)
    side, (x, y) = int(rng.integers(2)), take.offset
    aside = (2 * side - 1) * _ASIDE
    take = replace(take, offset=(x + aside, y) if along_x else (x, y + aside))
    return File(part, number, scenario, take, frame=frame, sides=(side,))


def _rng(world: World, part: str, number: int) -> np.random.Generator:
    return np.random.default_rng([world.seed, _STREAMS[part], world.num_objects or 0, number])


def _write_file(world: World, folder: Path, part: str, number: int) -> None:
    file, family = world_files(world)[part][number], FAMILIES[world.family]
    if part == "images":
        write_image(folder / file.path, render_clip(file.scenario, file.take, family, [file.frame])[0])
    else:
        write_video(folder / file.path, render_clip(file.scenario, file.take, family), FPS, INTRA)


def _train_tokenizer(world: World, folder: Path) -> None:
    from clipvip.model import train_clip_tokenizer

    said: list[str] = []
    for view in (View("images"), View("pretrain"), View("downstream"), View("downstream", paragraphs=True)):
        for clip in view_clips(world, view, folder):
            if clip.split == "train":
                said += [*clip.captions, *(text for text in (clip.subtitle, clip.caption) if text)]
    train_clip_tokenizer(said).save_pretrained(folder)
