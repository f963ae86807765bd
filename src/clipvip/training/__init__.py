"""Recipes and the one trainer that runs them."""

from clipvip.training.config import Recipe
from clipvip.training.recipes import list_recipes, load_recipe
from clipvip.training.trainer import train

__all__ = ["Recipe", "list_recipes", "load_recipe", "train"]
