"""Recipes and the one trainer that runs them.

Names are imported on first use: recipes can be read and listed without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Recipe": "clipvip.training.config",
    "list_recipes": "clipvip.training.recipes",
    "load_recipe": "clipvip.training.recipes",
    "resolve": "clipvip.training.recipes",
    "train": "clipvip.training.trainer",
}

if TYPE_CHECKING:
    from clipvip.training.config import Recipe
    from clipvip.training.recipes import list_recipes, load_recipe, resolve
    from clipvip.training.trainer import train

__all__ = ["Recipe", "list_recipes", "load_recipe", "resolve", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clipvip.training' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
