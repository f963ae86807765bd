"""Recipes: merging, overrides, profiles, and errors that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipvip.errors import ConfigError
from clipvip.training.recipes import list_recipes, load_recipe

DATA = ["data.train=x.jsonl"]


def test_every_recipe_in_the_package_resolves() -> None:
    """Catches a recipe that a renamed field has broken."""
    recipes = list_recipes()
    assert {"demo/warmstart", "demo/pretrain", "demo/finetune"} <= recipes.keys()
    for name, about in recipes.items():
        load_recipe(name, DATA)
        assert about, f"{name} has no one-line description"


def test_bases_and_overrides_merge_field_by_field(tmp_path: Path) -> None:
    """Catches an override that wipes its whole section, and 1e-5 read as text."""
    file = tmp_path / "mine.yaml"
    file.write_text("base: demo/finetune\noptim: {lr: 3.0e-4}\n")
    base = load_recipe("demo/finetune", DATA)
    mine = load_recipe(str(file), [*DATA, "train.steps=7", "optim.weight_decay=1e-5", "data.val=null"])
    assert mine.optim.lr == 3e-4
    assert mine.optim.weight_decay == 1e-5
    assert mine.optim.new_lr_factor == base.optim.new_lr_factor
    assert mine.train.steps == 7
    assert mine.train.batch_size == base.train.batch_size
    assert mine.data.val is None


@pytest.mark.parametrize("path", ["2024/m.jsonl", "2024", "a: b/#2.jsonl", "[x]/@y", "'it", "\U0001f600/m", "1e5"])
def test_paths_are_taken_as_they_are(path: str) -> None:
    """Catches a folder name that YAML reads as a number, a list or a comment."""
    recipe = load_recipe(
        "demo/finetune", [f"data.train={path}", f"data.videos={path}", f"model.init={path}", "data.val="]
    )
    assert recipe.data.train == path
    assert recipe.data.videos == Path(path)
    assert recipe.model.init == path
    assert recipe.data.val is None


def test_released_profile_sets_what_the_recipe_leaves_open() -> None:
    """Catches a profile that is only a label, or that overrides the recipe."""
    released = load_recipe("demo/finetune", [*DATA, "profile=released"])
    assert released.loss.reduction == "sum"
    assert released.optim.decay == "released"
    assert released.model.proxy_init == "normal"
    assert load_recipe("demo/finetune", [*DATA, "profile=released", "loss.reduction=mean"]).loss.reduction == "mean"


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("demo/finetun", DATA, "did you mean 'demo/finetune'"),
        ("demo/finetune", [], "'data.train' is missing"),
        ("demo/finetune", [*DATA, "optim.lrr=1"], "unknown field 'optim.lrr'; did you mean 'lr'"),
        ("demo/finetune", [*DATA, "optimm.lr=1"], "unknown field 'optimm'; did you mean 'optim'"),
        ("demo/finetune", [*DATA, "optim.lr"], "looks like section.key=value"),
        ("demo/finetune", [*DATA, "optim.lr=fast"], "optim.lr='fast'"),
        ("demo/finetune", [*DATA, "train.epochs=3"], "exactly one of train.epochs and train.steps"),
        ("demo/finetune", [*DATA, "profile=mine"], "profile='mine': choose one of clipvip, released"),
        ("demo/finetune", [*DATA, "profile=[1]"], "profile="),
        ("demo/finetune", [*DATA, "optim.lr=["], "not valid YAML"),
        ("demo/finetune", [*DATA, "loss.variant=vs+x"], "loss.variant='vs\\+x'"),
    ],
)
def test_errors_name_field_value_and_way_out(recipe: str, overrides: list[str], message: str) -> None:
    """Catches a typo that trains silently with a default."""
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe, overrides)


def test_circular_bases(tmp_path: Path) -> None:
    """Catches an endless recursion."""
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(f"base: {b}\n")
    b.write_text(f"base: {a}\n")
    with pytest.raises(ConfigError, match="circle"):
        load_recipe(str(a))
