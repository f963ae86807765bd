"""What `clipvip train --list` tells of recipes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clipvip.training.config import STILL_DIFFERS, Recipe
from clipvip.training.recipes import given, list_recipes, load_recipe, resolve, split_profile

SECTIONS = ("model", "data", "loss", "optim", "train")


@dataclass(frozen=True, slots=True)
class Listing:
    """A recipe with the command that runs it.

    recipe: resolved, with a placeholder for each input. inputs: placeholder -> what to give, for those still open.
    released: field -> (value under the profile clipvip, value under the profile released), where they differ.
    still_differs: what the profile released does not reproduce.
    """

    name: str
    recipe: Recipe
    command: str
    inputs: dict[str, str]
    released: dict[str, tuple[Any, Any]]
    still_differs: tuple[str, ...] = STILL_DIFFERS

    def settings(self) -> dict[str, Any]:
        """Every field of every section, by "section.key"."""
        return dict(_fields(self.recipe))


def listed() -> list[Listing]:
    """All recipes of the package, by folder and name."""
    return [describe(name) for name in list_recipes()]


def describe(source: str, overrides: Sequence[str] = ()) -> Listing:
    """One recipe. Arguments and errors: see `load_recipe`; fields that it leaves open are no error here."""
    merged = resolve(source, overrides)
    wanted = {**merged["inputs"]}
    wanted.setdefault("data.train", "manifest or shards of the training clips")
    still_open = {field: text for field, text in wanted.items() if given(merged, field) is None}
    fill = [f"{field}={_placeholder(field)}" for field in still_open]
    name, _ = split_profile(source)
    ours, theirs = (
        dict(_fields(load_recipe(name, [*overrides, *fill, f"profile={profile}"])))
        for profile in ("clipvip", "released")
    )
    return Listing(
        name=source,
        recipe=load_recipe(source, [*overrides, *fill]),
        command=shlex.join(["clipvip", "train", source, *overrides, *fill, "--workdir", "DIR"]),
        inputs={_placeholder(field): text for field, text in still_open.items()},
        released={field: (ours[field], theirs[field]) for field in ours if ours[field] != theirs[field]},
    )


def _placeholder(field: str) -> str:
    """model.init -> INIT, data.mix.0.data -> MIX_0_DATA."""
    return "_".join(field.split(".")[1:]).upper()


def _fields(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    for section, fields in recipe.model_dump(mode="json", include=set(SECTIONS)).items():
        for key, value in fields.items():
            yield f"{section}.{key}", value
