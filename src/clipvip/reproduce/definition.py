"""What is published about a run, as data: files, counts, recipe, figures, and how near to them counts as reproduced.

One YAML file a data set in `sets/`, and one of the weights they start from. null is "unknown": nothing is made up.
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from clipvip.errors import UsageError
from clipvip.training.recipes import split_profile

_SETS = Path(str(resources.files("clipvip") / "reproduce" / "sets"))
_WEIGHTS = "weights"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class PublishedFile(_Strict):
    """A file that a run needs; size and SHA-256 as published, None where they are unknown."""

    file: str
    about: str
    origin: str = Field(alias="from")
    bytes: int | None = None
    sha256: str | None = None


class Weights(PublishedFile):
    """A checkpoint to start from. tokenizer: folder or hub id."""

    tokenizer: str


class Videos(_Strict):
    """The folder of the media files."""

    folder: str
    about: str
    origin: str = Field(alias="from")


class Split(_Strict):
    """A manifest to import: `clipvip data import FORMAT SOURCES --ids IDS`.

    clips, captions: the public counts, any of which will do; none: unknown.
    """

    format: str
    sources: tuple[str, ...]
    ids: str | None = None
    clips: tuple[int, ...] = ()
    captions: tuple[int, ...] = ()


class Band(_Strict):
    """R@1 (t2v) this many points around the paper's counts as reproduced; `why` says what that rests on."""

    points: float
    why: str


class Figures(_Strict):
    """One run of a data set. paper: t2v figures in percent."""

    recipe: str
    paper: dict[str, float]


class DataSet(_Strict):
    """A file of `sets/`."""

    about: str
    files: tuple[PublishedFile, ...]
    videos: Videos
    splits: dict[str, Split]
    notes: tuple[str, ...]
    band: Band
    runs: dict[str, Figures]


class PublishedRun(_Strict):
    """A run of the paper with all that is known of it.

    profile: of the recipe, "released" (the published choices) or "clipvip" (ours).
    """

    name: str
    profile: str
    data: DataSet
    figures: Figures
    weights: Weights

    @property
    def recipe(self) -> str:
        """As `clipvip train` takes it."""
        return f"{self.figures.recipe}@{self.profile}"

    @property
    def paper(self) -> float:
        """R@1, t2v."""
        return self.figures.paper["R@1"]

    @property
    def band(self) -> tuple[float, float]:
        """The R@1 that counts as reproduced, from and to."""
        points = self.data.band.points
        return round(self.paper - points, 2), round(self.paper + points, 2)


def list_runs() -> list[str]:
    """The names of all published runs, such as "msrvtt-b32"."""
    return [f"{name}-{size}" for name, data in _data_sets().items() for size in data.runs]


def load_run(source: str) -> PublishedRun:
    """A run by its name: with the published choices, or as "NAME@clipvip" with ours. Raises: UsageError."""
    name, profile = split_profile(source)
    if name not in list_runs():
        near = difflib.get_close_matches(name, list_runs(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`clipvip reproduce --list` shows the runs"
        raise UsageError(f"{name}: no such published run; {hint}")
    data_name, _, size = name.rpartition("-")
    data = _data_sets()[data_name]
    weights = Weights.model_validate(_read(_WEIGHTS)[size])
    return PublishedRun(
        name=name, profile=profile or "released", data=data, figures=data.runs[size],
        weights=weights,
    )  # fmt: skip


@cache
def _data_sets() -> dict[str, DataSet]:
    names = sorted(path.stem for path in _SETS.glob("*.yaml") if path.stem != _WEIGHTS)
    return {name: DataSet.model_validate(_read(name)) for name in names}


def _read(name: str) -> Any:
    return yaml.safe_load((_SETS / f"{name}.yaml").read_text(encoding="utf-8"))
