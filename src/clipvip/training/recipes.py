"""Finds, merges and checks recipes: of the package or a file, its bases, the profile, `key=value` overrides.

The package has one YAML file per group: `recipes/finetune.yaml` maps "msrvtt-b32" to the recipe finetune/msrvtt-b32.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, reduce
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from clipvip.errors import ConfigError
from clipvip.training.config import PROFILES, Recipe

_ROOT = Path(str(resources.files("clipvip") / "recipes"))


def list_recipes() -> dict[str, str]:
    """Name -> one-line description of every recipe in the package (bases excluded)."""
    names = sorted(f"{group}/{name}" for group in _groups() - {"base"} for name in _table(group))
    return {name: _with_bases(name).get("about", "") for name in names}


def load_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """A checked recipe.

    source: a name as `clipvip train --list` shows it, or the path of a YAML file; "NAME@released" (or "@clipvip") asks
    for that profile. overrides: "section.key=value", values in YAML; "data.mix.0.data=..." reaches into a list.
    Raises: ConfigError naming the field, the value and the nearest known field or recipe.
    """
    merged = resolve(source, overrides)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(error, merged['inputs'])}") from None


def resolve(source: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A recipe's sections as they are given, merged but not yet checked. Arguments: see `load_recipe`."""
    name, profile = split_profile(source)
    told = [_parse_override(override) for override in overrides]
    if profile:
        told.insert(0, {"profile": profile})
    merged = _with_bases(name)
    only_released = merged.pop("released", {})
    if not isinstance(only_released, dict):
        raise ConfigError(f"{name}: released={only_released!r}: expected sections, as in the recipe itself")
    profile = next((layer["profile"] for layer in reversed(told) if "profile" in layer), merged.get("profile"))
    if not isinstance(profile, str | None) or profile not in (None, *PROFILES):
        raise ConfigError(f"{source}: profile={profile!r}: choose one of {', '.join(PROFILES)}")
    layers = [PROFILES[profile or "clipvip"], merged, only_released if profile == "released" else {}, *told]
    merged = reduce(_merge, layers)
    inputs = merged.get("inputs") or {}
    if not isinstance(inputs, dict):
        raise ConfigError(f"{source}: inputs={inputs!r}: expected field: what to give")
    return {**merged, "inputs": {field: text for field, text in inputs.items() if text is not None}}


def split_profile(source: str) -> tuple[str, str | None]:
    """A recipe's name or file, and the profile that stands behind an "@", if any. Raises: ConfigError."""
    name, _, profile = source.rpartition("@")
    if (
        not name or _in_package(source) or Path(source).is_file() or set(profile) & set("/\\.")
    ):  # an "@" in a path is the path's own
        return source, None
    if profile not in PROFILES:
        near = difflib.get_close_matches(profile, PROFILES, n=1)
        hint = f"did you mean '{name}@{near[0]}'?" if near else f"known: {', '.join(PROFILES)}"
        raise ConfigError(f"{source}: no such profile {profile!r}; {hint}")
    return name, profile


def check_start(source: str, recipe: Recipe) -> None:
    """Raises: ConfigError if nothing says what weights to start from, in the words of the recipe's `inputs`."""
    section = recipe.model
    missing = "model.init" if section.architecture is None else "model.tokenizer"
    if (
        section.init is None
        and (section.architecture is None or section.tokenizer is None)
        and missing in recipe.inputs
    ):
        raise ConfigError(f"{source}: {missing} is not set ({recipe.inputs[missing]}); give it as {missing}=VALUE")


def given(merged: Any, field: str) -> Any:
    """What `resolve` found for "section.key", or None."""
    for part in field.split("."):
        if isinstance(merged, list | tuple):
            merged = merged[int(part)] if part.isdecimal() and int(part) < len(merged) else None
        else:
            merged = merged.get(part) if isinstance(merged, dict) else None
    return merged


def _with_bases(source: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    if source in seen:
        raise ConfigError(f"{source}: its bases go round in a circle: {' -> '.join((*seen, source))}")
    own = _read(source)
    bases = own.pop("base", None)
    bases = [] if bases is None else bases if isinstance(bases, list) else [bases]
    if not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{source}: base={bases!r}: expected a recipe's name or file, or a list of them")
    return reduce(_merge, [*(_with_bases(base, (*seen, source)) for base in bases), own])


@cache
def _groups() -> set[str]:
    return {path.stem for path in _ROOT.glob("*.yaml")}


@cache
def _table(group: str) -> dict[str, dict[str, Any]]:
    return _read_yaml(_ROOT / f"{group}.yaml")


def _in_package(source: str) -> dict[str, Any] | None:
    """A recipe or base of the package by its name, or None."""
    group, _, name = source.partition("/")
    return copy.deepcopy(_table(group).get(name)) if group in _groups() else None


def _read(source: str) -> dict[str, Any]:
    found = _in_package(source)
    if found is not None:
        return found
    try:
        return _read_yaml(Path(source))
    except (OSError, UnicodeDecodeError):
        known = [] if source.endswith((".yaml", ".yml")) else list(list_recipes())
        near = difflib.get_close_matches(source, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`clipvip train --list` shows the recipes"
        raise ConfigError(f"{source}: no such recipe or file; {hint}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply for a recipe") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of sections, got {type(data).__name__}")
    return data


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r}: an override looks like section.key=value, for example optim.lr=1e-5")
    value: Any = text
    if not _takes_text(key):
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError):
            raise ConfigError(f"{override!r}: the value is not valid YAML") from None
        if isinstance(value, str):
            with suppress(ValueError):
                value = float(value)  # YAML takes 1e-5 for a string
    elif text in ("", "null"):
        value = None
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(base: Any, over: Any) -> Any:
    """`over` over `base`, section by section; entries of a list by their number."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: _merge(base.get(key), value) for key, value in over.items()}}
    if isinstance(base, list) and isinstance(over, dict) and all(str(key).isdecimal() for key in over):
        beyond = [key for key in over if int(key) >= len(base)]
        if beyond:
            raise ConfigError(f"entry {beyond[0]} of a list that has {len(base)} (the first is 0)")
        numbered = {int(key): value for key, value in over.items()}
        return [_merge(old, numbered.get(number, old)) for number, old in enumerate(base)]
    return over


def _explain(error: ValidationError, inputs: dict[str, str]) -> str:
    """The first problem, in one line, with the nearest known field for an unknown one.

    Unknown fields come first: a misspelt one is also missing.
    """
    problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "extra_forbidden":
        section = _annotation(problem["loc"][:-1])
        known = list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"unknown field {where!r}; {hint}"
    if problem["type"] == "missing":
        what = f" ({inputs[where]})" if where in inputs else ""
        return f"field {where!r} is missing{what}; give it in the recipe or as {where}=VALUE"
    return f"{where}={problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}"


def _takes_text(key: str) -> bool:
    """Whether a field holds a path or a text: then its value is taken as it is, whatever YAML would make of it."""
    kind = _annotation(key.split("."))
    return bool({str, Path} & set(get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)))


def _annotation(location: Sequence[int | str]) -> Any:
    """The type of the field at a location in a recipe, or None."""
    kind: Any = Recipe
    for part in location:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            kind = field and field.annotation
        else:
            kind = get_args(kind)[0] if get_origin(kind) is tuple else None
    return kind
