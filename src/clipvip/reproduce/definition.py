"""What is published about a run, as data: files, counts, recipe, figures, and how near to them counts as reproduced.

One YAML file per data set in `sets/`, and one of the weights they start from. null is "unknown": nothing is made up.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from clipvip.errors import UsageError
from clipvip.training.recipes import split_profile

_SETS = Path(str(resources.files("clipvip") / "reproduce" / "sets"))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class PublishedFile(_Strict):
    """A file that a run needs; size and SHA-256 as published, None where they are unknown.

    tokenizer: of a checkpoint, folder or hub id.
    """

    file: str
    about: str
    origin: str = Field(alias="from")
    bytes: int | None = None
    sha256: str | None = None
    tokenizer: str = ""


class Videos(_Strict):
    """The folder of the media files."""

    folder: str
    about: str
    origin: str = Field(alias="from")


class Split(_Strict):
    """A manifest to import: `clipvip data import FORMAT SOURCES --ids IDS`.

    clips, captions: the public counts, any of which is accepted; empty: unknown.
    """

    format: str
    sources: tuple[str, ...]
    ids: str | None = None
    clips: tuple[int, ...] = ()
    captions: tuple[int, ...] = ()


class Band(_Strict):
    """R@1 (t2v) this many points around the paper's counts as reproduced; `why` gives the reason."""

    points: float
    why: str


class Figures(_Strict):
    """The recipe of a run, and its t2v figures in the paper, in percent."""

    recipe: str
    paper: dict[str, float]


class DataSet(_Strict):
    """A file of `sets/`; `runs` by model size."""

    about: str
    files: tuple[PublishedFile, ...]
    videos: Videos
    splits: dict[str, Split]
    notes: tuple[str, ...]
    band: Band
    runs: dict[str, Figures]


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """A run of the paper with all that is known of it.

    profile: of the recipe, "released" (the published choices) or "clipvip" (ours).
    """

    name: str
    profile: str
    data: DataSet
    figures: Figures
    weights: PublishedFile

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
    names = sorted(path.stem for path in _SETS.glob("*.yaml") if path.stem != "weights")
    return [f"{name}-{size}" for name in names for size in _read(name)["runs"]]


def load_run(source: str) -> PublishedRun:
    """A run by its name: with the published choices, or as "NAME@clipvip" with ours. Raises: UsageError."""
    name, profile = split_profile(source)
    if name not in list_runs():
        near = difflib.get_close_matches(name, list_runs(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`clipvip reproduce --list` shows the runs"
        raise UsageError(f"{name}: no such published run; {hint}")
    data_name, _, size = name.rpartition("-")
    data, weights = DataSet.model_validate(_read(data_name)), PublishedFile.model_validate(_read("weights")[size])
    return PublishedRun(name, profile or "released", data, data.runs[size], weights)


@cache
def _read(name: str) -> Any:
    return yaml.safe_load((_SETS / f"{name}.yaml").read_text(encoding="utf-8"))
