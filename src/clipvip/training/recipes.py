"""Finds, merges and checks recipes: package YAML or a file, its bases, the profile, `key=value` overrides."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from clipvip.errors import ConfigError
from clipvip.training.config import PROFILES, Recipe


def list_recipes() -> dict[str, str]:
    """Name -> one-line description of every recipe in the package (bases excluded)."""
    root = Path(str(resources.files("clipvip") / "recipes"))
    names = sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))
    return {name: _read(name).get("about", "") for name in names if not name.startswith("base/")}


def load_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """A checked recipe.

    source: a name as `clipvip train --list` shows it, or the path of a YAML file. overrides: "section.key=value",
    values in YAML. Raises: ConfigError naming the field, the value and the nearest known field or recipe.
    """
    merged = _with_bases(source)
    for override in overrides:
        merged = _merge(merged, _parse_override(override))
    profile = merged.get("profile", "clipvip")
    if not isinstance(profile, str) or profile not in PROFILES:
        raise ConfigError(f"{source}: profile={profile!r}: choose one of {', '.join(PROFILES)}")
    merged = _merge(PROFILES[profile], merged)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(error)}") from None


def _with_bases(source: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    if source in seen:
        raise ConfigError(f"{source}: its bases go round in a circle: {' -> '.join((*seen, source))}")
    own = _read(source)
    base = own.pop("base", None)
    if not isinstance(base, str | None):
        raise ConfigError(f"{source}: base={base!r}: expected a recipe's name or file")
    return own if base is None else _merge(_with_bases(base, (*seen, source)), own)


def _read(source: str) -> dict[str, Any]:
    inside = Path(str(resources.files("clipvip") / "recipes" / f"{source}.yaml"))
    path = inside if inside.is_file() else Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        known = [] if source.endswith((".yaml", ".yml")) else list(list_recipes())
        near = difflib.get_close_matches(source, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`clipvip train --list` shows the recipes"
        raise ConfigError(f"{source}: no such recipe or file; {hint}") from None
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
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
        except yaml.YAMLError:
            raise ConfigError(f"{override!r}: the value is not valid YAML") from None
        if isinstance(value, str):
            with suppress(ValueError):
                value = float(value)  # YAML takes 1e-5 for a string
    elif text in ("", "null"):
        value = None
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _explain(error: ValidationError) -> str:
    """The first problem, in one line, with the nearest known field for an unknown one."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "extra_forbidden":
        known = _fields_beside(problem["loc"])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"unknown field {where!r}; {hint}"
    if problem["type"] == "missing":
        return f"field {where!r} is missing; give it in the recipe or as {where}=VALUE"
    return f"{where}={problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}"


def _takes_text(key: str) -> bool:
    """Whether a field holds a path or a text: then its value is taken as it is, whatever YAML would make of it."""
    section, _, name = key.partition(".")
    model = Recipe.model_fields[section].annotation if section in Recipe.model_fields else None
    field = model.model_fields.get(name) if isinstance(model, type) and issubclass(model, BaseModel) else None
    return field is not None and bool({str, Path} & {field.annotation, *get_args(field.annotation)})


def _fields_beside(location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = Recipe
    for part in location[:-1]:
        field = section.model_fields[str(part)].annotation
        assert isinstance(field, type)
        section = field
    return list(section.model_fields)
