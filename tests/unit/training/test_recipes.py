"""Recipes: merging, overrides, profiles, and errors that help."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

from clipvip.cli.render.recipe_list import as_full_text
from clipvip.errors import ConfigError
from clipvip.training.config import PROFILES, STILL_DIFFERS
from clipvip.training.listing import describe, listed
from clipvip.training.recipes import _ROOT, list_recipes, load_recipe, resolve

DATA = ["data.train=x.jsonl"]
NAMES = list(list_recipes())
BASES = (_ROOT / "base.yaml").read_text().splitlines(keepends=True)
PAPER = [name for name in NAMES if not name.startswith(("demo/", "small/"))]


def filled(name: str) -> list[str]:
    """Something for each input that the recipe leaves open."""
    return [f"{field}=x" for field in describe(name).recipe.inputs]


def test_the_papers_runs_are_there() -> None:
    """Catches a table of the paper without its recipes."""
    variants = ("vs", "vs+fc", "vs+vc", "vs+vc+fc", "vsc", "vsc+fc")
    wanted = {f"pretrain/hdvila-3ep-{size}" for size in ("b32", "b16")} | {"scratch/b32", "scratch/b16"}
    wanted |= {f"pretrain/loss-{variant}" for variant in variants}
    wanted |= {f"pretrain/data-{data}" for data in ("captions", "images", "both+images")}
    wanted |= {f"pretrain/scale-{data}" for data in ("webvid2.5m", "hdvila10m", "hdvila100m")}
    sets = ("msrvtt", "didemo", "lsmdc", "activitynet")
    wanted |= {f"finetune/{data}-{size}" for data in sets for size in ("b32", "b16")}
    wanted |= {f"aggregator/{kind}" for kind in ("mean", "transformer", "full", "vip1", "vip2", "vip4", "vip8")}
    assert set(PAPER) == wanted
    assert {"demo/warmstart", "demo/pretrain", "demo/finetune"} <= set(NAMES)
    for name in PAPER:
        assert f"small/{re.sub('[-/]b(32|16)$', '', name)}" in NAMES, f"{name} has no counterpart in the small world"
        assert load_recipe(name, filled(name)).loss.variant in name or not name.startswith("pretrain/loss")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_in_the_package_resolves(name: str, profile: str) -> None:
    """Catches a recipe that a renamed field has broken, in either profile, and one that --list cannot describe."""
    recipe = load_recipe(f"{name}@{profile}", filled(name))
    assert recipe.profile == profile
    for field in ("about", "hardware", "paper", "ours"):
        assert getattr(recipe, field), f"{name} has no {field}"
    assert {"data.train", "model.init" if recipe.model.architecture is None else "model.tokenizer"} <= set(
        recipe.inputs
    )


def digest(name: str) -> str:
    """Of all settings of a recipe in both profiles, before defaults."""
    resolved = [resolve(f"{name}@{profile}") for profile in ("clipvip", "released")]
    texts = ("about", "hardware", "paper", "ours", "inputs")
    settings = [{key: value for key, value in each.items() if key not in texts} for each in resolved]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def test_recipes_are_those_that_were_published() -> None:
    """Catches a name that is lost, and a setting that changes by a change elsewhere: of a base, or of how they merge.

    If a recipe is meant to change, write what this test computes to tests/data/recipes.json.
    """
    published = json.loads((Path(__file__).parents[2] / "data" / "recipes.json").read_text())
    assert {name: digest(name) for name in NAMES} == published


@pytest.mark.parametrize("part", [line[:-2] for line in BASES if re.fullmatch(r"[\w-]+:\n", line)])
def test_every_base_says_where_its_numbers_come_from(part: str) -> None:
    """Catches a part without a source, or that no recipe uses."""
    assert BASES[BASES.index(f"{part}:\n") - 1].startswith("# ")
    used = rf"^\s*base: .*\bbase/{part}\b(?!-)"
    assert any(re.search(used, path.read_text(), re.M) for path in _ROOT.rglob("*.yaml")), f"base/{part} has no user"


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes_exist_in_both_profiles(name: str) -> None:
    """Catches a profile that a recipe's own fields silence, and a difference that the list does not show."""
    told = describe(name).released
    ours, theirs = (load_recipe(f"{name}@{profile}", filled(name)) for profile in ("clipvip", "released"))
    expected = {"loss.reduction": "sum", "optim.decay": "released", "optim.rule": "released"}
    expected |= {"data.last_batch": "keep"}
    expected |= {"train.precision": "float32", "model.resize_in": "tensor", "model.proxy_init": "normal"}
    for field, value in expected.items():
        section, key = field.split(".")
        assert getattr(getattr(theirs, section), key) == value
        assert told[field] == (getattr(getattr(ours, section), key), value)
    assert theirs.optim.new_lr_factor == 1
    differing = {
        f"{section}.{key}"
        for section in ("model", "data", "loss", "optim", "train")
        for key, value in getattr(ours, section)
        if value != getattr(getattr(theirs, section), key)
    }
    assert set(told) == differing


def test_numbers_of_the_paper() -> None:
    """Catches a base that an override has changed for all: spot checks of section 5.1 and the released files."""
    full = load_recipe("pretrain/hdvila-3ep-b16", filled("pretrain/hdvila-3ep-b16"))
    assert (full.optim.lr, full.optim.weight_decay, full.optim.clip_norm) == (5e-6, 0.05, 5.0)
    assert (full.train.batch_size, full.train.epochs, full.loss.variant) == (1024, 3, "vsc+fc")
    assert (full.optim.beta1, full.optim.beta2, full.optim.warmup_ratio) == (0.9, 0.98, 0.01)
    passes = {"msrvtt": 100, "didemo": 20, "lsmdc": 10, "activitynet": 20}
    cut = {"msrvtt": {50}, "didemo": {50, 70}, "lsmdc": {50}, "activitynet": {70}}
    for data, epochs in passes.items():
        names = [f"finetune/{data}-{size}" for size in ("b32", "b16")]
        for name in names:
            recipe = load_recipe(name, filled(name))
            assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.train.batch_size) == (1e-6, 0.2, 128)
            assert recipe.train.epochs == epochs
            assert recipe.model.num_frames == (32 if data == "activitynet" else 12)
            assert recipe.model.max_text_tokens == 70
            assert recipe.data.join_captions == (data in ("didemo", "activitynet"))
        released = (load_recipe(f"{name}@released", filled(name)) for name in names)
        assert {recipe.model.max_text_tokens for recipe in released} == cut[data]
        for name in names:  # "lr_mul" of the released files
            factor = load_recipe(f"{name}@released", filled(name)).optim.logit_scale_lr_factor
            assert factor == (10 if name == "finetune/didemo-b16" else 1)
    steps = {load_recipe(name, filled(name)).train.steps for name in PAPER if "scale-" in name}
    assert steps == {100_000_000 // 1024}


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


def test_several_bases_merge_from_left_to_right(tmp_path: Path) -> None:
    """Catches a list of bases of which one is lost, or wins over the recipe."""
    left, right, mine = (tmp_path / f"{name}.yaml" for name in ("left", "right", "mine"))
    left.write_text("optim: {lr: 1.0e-3, eps: 1.0e-5, beta1: 0.5}\ntrain: {batch_size: 4, steps: 1}\nmodel: {}\n")
    right.write_text("optim: {lr: 2.0e-3, eps: 1.0e-4}\ndata: {train: x}\n")
    mine.write_text(yaml.safe_dump({"base": [str(left), str(right)], "optim": {"lr": 3e-3}}))
    optim = load_recipe(str(mine)).optim
    assert (optim.lr, optim.eps, optim.beta1) == (3e-3, 1e-4, 0.5)
    mine.write_text("base: [3]\n")
    with pytest.raises(ConfigError, match="a list of them"):
        load_recipe(str(mine))


def test_released_section_speaks_only_under_that_profile_and_below_the_command_line(tmp_path: Path) -> None:
    """Catches a section that is always or never heard, that a base's own values hide, or that beats an override."""
    base, mine = tmp_path / "base.yaml", tmp_path / "mine@home.yaml"
    base.write_text("base: demo/finetune\nreleased: {optim: {lr: 1.0, eps: 2.0}, loss: {reduction: mean}}\n")
    mine.write_text(f"base: {base}\noptim: {{lr: 0.5}}\nreleased: {{optim: {{eps: 3.0}}}}\n")
    ours = load_recipe(str(mine), DATA)
    assert (ours.profile, ours.optim.lr, ours.optim.eps) == ("clipvip", 0.5, 1e-6)
    for theirs in (load_recipe(f"{mine}@released", DATA), load_recipe(str(mine), [*DATA, "profile=released"])):
        assert (theirs.profile, theirs.optim.lr, theirs.optim.eps) == ("released", 1.0, 3.0)
        assert theirs.loss.reduction == "mean"
        assert theirs.optim.decay == "released"
    assert load_recipe(f"{mine}@released", [*DATA, "optim.lr=0.25"]).optim.lr == 0.25
    assert load_recipe(f"{mine}@released", [*DATA, "profile=clipvip"]) == ours
    mine.write_text("base: demo/finetune\nreleased: 3\n")
    with pytest.raises(ConfigError, match="released=3: expected sections"):
        load_recipe(str(mine), DATA)


def test_overrides_reach_into_lists() -> None:
    """Catches a second source that can only be given whole, and paths in it that YAML reads as numbers."""
    mixed = load_recipe("pretrain/data-both+images", [*DATA, "data.mix.0.data=2024"])
    assert mixed.data.mix[0].data == "2024"
    assert mixed.data.mix[0].share == 0.2
    assert load_recipe("demo/finetune", [*DATA, "train.trackers=[wandb]"]).train.trackers == ("wandb",)


def test_list_tells_what_the_recipe_does_and_what_is_still_open() -> None:
    """Catches a command that lacks an input or asks for one that is given, and settings of another profile."""
    open_ = describe("finetune/msrvtt-b32@released", ["data.train=my clips.jsonl"])
    assert open_.command == (
        "clipvip train finetune/msrvtt-b32@released 'data.train=my clips.jsonl' model.init=INIT data.val=VAL "
        "--workdir DIR"
    )
    assert set(open_.inputs) == {"INIT", "VAL"}
    assert open_.settings()["loss.reduction"] == "sum"
    assert open_.released["model.max_text_tokens"] == (70, 50)
    told = as_full_text(open_)
    assert all(difference in told for difference in STILL_DIFFERS)
    assert any("fp16" in difference for difference in STILL_DIFFERS)
    assert "MIX_0_DATA" in describe("pretrain/data-both+images").command
    assert "model.init" not in describe("scratch/b32").command
    assert [listing.name for listing in listed()] == NAMES


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
        ("demo/finetune", ["data.trian=x.jsonl"], "unknown field 'data.trian'; did you mean 'train'"),
        ("demo/finetune", [*DATA, "optim.lr"], "looks like section.key=value"),
        ("demo/finetune", [*DATA, "optim.lr=fast"], "optim.lr='fast'"),
        ("demo/finetune", [*DATA, "train.epochs=3"], "exactly one of train.epochs and train.steps"),
        ("demo/finetune", [*DATA, "profile=mine"], "profile='mine': choose one of clipvip, released"),
        ("demo/finetune", [*DATA, "profile=[1]"], "profile="),
        ("demo/finetune", [*DATA, "optim.lr=["], "not valid YAML"),
        ("demo/finetune", [*DATA, "loss.variant=vs+x"], "loss.variant='vs\\+x'"),
        ("demo/finetune@mine", DATA, "no such profile 'mine'; known: clipvip, released"),
        ("demo/finetune@relaesed", DATA, "did you mean 'demo/finetune@released'"),
        ("demo/finetun@released", DATA, "did you mean 'demo/finetune'"),
        ("a@b/mine.yaml", DATA, "a@b/mine.yaml: no such recipe or file"),
        ("finetune/didemo-b32", [], r"'data.train' is missing \(manifest or shards.*as data.train=VALUE"),
        (
            "pretrain/data-both+images",
            [*DATA, "data.mix.0.dat=x"],
            "unknown field 'data.mix.0.dat'; did you mean 'data'",
        ),
        ("pretrain/data-both+images", [*DATA, "data.mix.1.data=x"], "entry 1 of a list that has 1"),
    ],
)
def test_errors_name_field_value_and_way_out(recipe: str, overrides: list[str], message: str) -> None:
    """Catches a typo that trains silently with a default."""
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe, overrides)


@pytest.mark.parametrize("source", ["small/aggregator", "finetune", "finetune/", "../demo/finetune", "/finetune"])
def test_names_that_are_no_recipe(source: str) -> None:
    """Catches a group, or a file of the package that is no recipe, taken for one."""
    with pytest.raises(ConfigError, match="no such recipe or file"):
        load_recipe(source, DATA)


def test_circular_bases(tmp_path: Path) -> None:
    """Catches an endless recursion."""
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(f"base: {b}\n")
    b.write_text(f"base: {a}\n")
    with pytest.raises(ConfigError, match="circle"):
        load_recipe(str(a))
