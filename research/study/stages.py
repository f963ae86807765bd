"""What is trained: a chain of recipe runs, each known by a digest of everything its result depends on.

Cells that share a warm start or a post-pre-training share its folder, and a stage that is done is never done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from study.views import WORLD_VERSION, View, World, make_world, write_view

Settings = tuple[tuple[str, Any], ...]
"""Recipe field -> value."""
SECTIONS = ("profile", "model", "data", "loss", "optim", "train")
"""Of a recipe, what decides the weights."""
_RECIPES = Path(__file__).parent / "recipes"
RECIPES = (
    "study/warmstart",
    "study/pretrain",
    "study/pretrain-mixed",
    "study/pretrain-scratch",
    "study/finetune",
    "study/finetune-scratch",
)
"""Three files, and what is made of them: "mixed" has images in every fifth step, "scratch" no weights to start from."""


@lru_cache
def recipe_of(name: str) -> tuple[str, tuple[str, ...]]:
    """The file of one of `RECIPES`, and the overrides that belong to it."""
    from clipvip.training import resolve

    stem, _, variant = name.removeprefix("study/").partition("-")
    file = str(_RECIPES / f"{stem}.yaml")
    if variant == "mixed":
        return file, ("data.mix=[{share: 0.2}]",)
    if variant == "scratch":  # all parameters are new: the architecture of the warm start, and one learning rate
        architecture = json.dumps(resolve(str(_RECIPES / "warmstart.yaml"))["model"]["architecture"])
        return file, ("model.aggregator=vip", f"model.architecture={architecture}", "optim.new_lr_factor=1.0")
    return file, ()


@dataclass(frozen=True)
class Stage:
    """One run of a recipe on a view of a world.

    seed: of the model. parent: whose weights it starts from (None: from scratch), and snapshot: those after so many
    steps (None: the last). mixed: what every fifth step draws from instead.
    """

    recipe: str
    world: World
    view: View
    seed: int
    settings: Settings = ()
    parent: Stage | None = None
    snapshot: int | None = None
    mixed: View | None = None

    @property
    def key(self) -> str:
        """Digest of everything the trained weights depend on (except versions of libraries)."""
        return _key(self)

    @property
    def settled(self) -> dict[str, Any]:
        """The recipe's sections with the settings in them: equal runs are equal here, however they are written."""
        from clipvip.training import resolve

        file, overrides = recipe_of(self.recipe)
        resolved = resolve(file, [*overrides, *(f"{field}={value}" for field, value in self.settings)])
        return {name: fields for name, fields in resolved.items() if name in SECTIONS}

    def chain(self) -> Iterator[Stage]:
        """This stage's ancestors, the first one first, and itself."""
        if self.parent is not None:
            yield from self.parent.chain()
        yield self

    @property
    def num_steps(self) -> int:
        """Optimiser steps, for estimates."""
        from clipvip.training import resolve

        file, overrides = recipe_of(self.recipe)
        return int(dict(self.settings).get("train.steps") or resolve(file, overrides)["train"]["steps"])


class Workplace:
    """Folders of everything that can be made again: worlds/, manifests/, stages/."""

    def __init__(self, root: Path):
        self.root = root

    def world(self, world: World) -> Path:
        """The folder of a world."""
        return self.root / "worlds" / world.name

    def manifest(self, world: World, view: View) -> Path:
        """The manifest of a view, written if it is not there."""
        kind = digest([WORLD_VERSION, asdict(world), asdict(view)])
        path = self.root / "manifests" / f"{world.name}-{view.part}-{kind}.jsonl"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_view(world, view, self.world(world), path)
        return path

    def make(self, world: World, workers: int) -> None:
        """Write a world that is not there yet."""
        self.world(world).mkdir(parents=True, exist_ok=True)
        make_world(world, self.world(world), workers)

    def folder(self, stage: Stage) -> Path:
        """The work folder of a stage's run."""
        return self.root / "stages" / stage.key

    def is_done(self, stage: Stage) -> bool:
        """Whether its model is there."""
        return (self.folder(stage) / "summary.json").exists()

    def model(self, stage: Stage, snapshot: int | None = None) -> Path:
        """The model folder that a stage left, at its end or after so many steps."""
        folder = self.folder(stage)
        return folder / "model" if snapshot is None else folder / "snapshots" / f"step-{snapshot:06d}"

    def run(self, stage: Stage) -> dict[str, Any]:
        """Train one stage, whose parent is done, as `clipvip train` would; resumes where it was interrupted."""
        from clipvip.training import load_recipe, train

        file, _ = recipe_of(stage.recipe)
        return train(load_recipe(file, self.overrides(stage)), self.folder(stage), progress=False)

    def overrides(self, stage: Stage) -> list[str]:
        """What `clipvip train` gets in addition to the recipe's file."""
        paths = {"data.train": self.manifest(stage.world, stage.view)}
        if stage.parent is None:
            paths["model.tokenizer"] = self.world(stage.world) / "tokenizer"
        else:
            paths["model.init"] = self.model(stage.parent, stage.snapshot)
        if stage.mixed is not None:
            paths["data.mix.0.data"] = self.manifest(stage.world, stage.mixed)
        settings = {**dict(stage.settings), "train.seed": stage.seed}
        _, own = recipe_of(stage.recipe)
        return [*own, *(f"{key}={path}" for key, path in paths.items()), *(f"{k}={v}" for k, v in settings.items())]


@lru_cache(maxsize=4096)
def _key(stage: Stage) -> str:
    described = {
        "version": WORLD_VERSION,
        "recipe": stage.settled,
        "world": asdict(stage.world),
        "view": asdict(stage.view),
        "mixed": stage.mixed and asdict(stage.mixed),
        "seed": stage.seed,
        "parent": stage.parent and stage.parent.key,
        "snapshot": stage.snapshot,
    }  # fmt: skip
    return digest(described)


def digest(described: Any) -> str:
    """A digest of anything JSON can hold, for file names."""
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
