"""What is published about runs agrees with the recipes and importers, and nothing unknown is made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipvip.data.importers import FORMATS
from clipvip.errors import UsageError
from clipvip.reproduce import list_runs, load_run
from clipvip.reproduce.run import Settings, file_problem, steps
from clipvip.training.recipes import list_recipes, resolve
from helpers_import import write

RUNS = [f"{data}-{size}" for data in ("activitynet", "didemo", "lsmdc", "msrvtt") for size in ("b32", "b16")]


def settings(name: str, **options: Any) -> Settings:
    return Settings(load_run(name), Path("ROOT"), Path("DIR"), **options)


def test_all_fine_tuning_recipes_are_reachable() -> None:
    """Catches a published run that cannot be asked for."""
    assert list_runs() == RUNS
    assert {load_run(name).figures.recipe for name in RUNS} == {f"finetune/{name}" for name in RUNS}
    assert {f"finetune/{name}" for name in RUNS} == {name for name in list_recipes() if name.startswith("finetune/")}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_agrees_with_its_recipe_and_importer(name: str) -> None:
    """Catches figures that drift apart from the recipe's, a file that no step names, and counts no importer knows."""
    run = load_run(name)
    merged = resolve(run.recipe)
    assert merged["profile"] == "released"
    assert ", ".join(f"{key} {value}" for key, value in run.figures.paper.items()) in merged["paper"]
    assert run.band[0] < run.paper < run.band[1]
    listed = {file.file for file in run.data.files}
    used = {source for split in run.data.splits.values() for source in (*split.sources, *filter(None, [split.ids]))}
    assert listed == used
    for split in run.data.splits.values():
        public = set(FORMATS[split.format].sizes.values())
        assert set(split.clips) <= public
    recipe = settings(name).recipe()
    assert recipe.data.val == (Path("DIR/val.jsonl") if "val" in run.data.splits else None)
    commands = [command for step in steps(settings(name)) for command in step.commands]
    for file in (*listed, run.weights.file):
        assert any(f"ROOT/{file}" in command for command in commands), file
    assert ("--join-captions" in commands[-1]) == recipe.data.join_captions


def test_names_and_profiles() -> None:
    """Catches our own choices taken for the published ones, and a name that is guessed at."""
    assert load_run("msrvtt-b32").recipe == "finetune/msrvtt-b32@released"
    assert load_run("msrvtt-b32@clipvip").recipe == "finetune/msrvtt-b32@clipvip"
    with pytest.raises(UsageError, match="msrvt-b32: no such published run; did you mean 'msrvtt-b32'"):
        load_run("msrvt-b32")
    with pytest.raises(UsageError, match=r"data\.train is what this run is about"):
        settings("msrvtt-b32", overrides=("data.train=other.jsonl",))


def test_own_weights_need_no_conversion() -> None:
    """Catches a step for a checkpoint that is not used, and a command that cannot be copied."""
    found = settings("lsmdc-b16", init="my model", on_decode_error="skip", overrides=("train.seed=1",))
    assert [step.name for step in steps(found)] == ["manifests", "check", "train", "evaluate"]
    assert found.command == (
        "clipvip reproduce lsmdc-b16 train.seed=1 --data ROOT --workdir DIR --init 'my model' --on-decode-error skip"
    )


def test_files_are_held_against_what_is_known(tmp_path: Path) -> None:
    """Catches another file of the same name, and an unknown size that counts as a wrong one."""
    path = write(tmp_path / "MSRVTT_data.json", "{}")
    [annotations, *_, weights] = settings("msrvtt-b32").published_files
    assert file_problem(annotations, path) is None
    assert file_problem(weights, tmp_path / weights.file) == "pretrain_clipvip_base_32.pt: missing"
    known = annotations.model_copy(update={"bytes": 2, "sha256": "aa"})
    assert file_problem(known, path, "aa") is None
    assert file_problem(known, path, "bb") == "MSRVTT_data.json: SHA-256 bb, published with aa"
    path.write_text("{ }")
    assert file_problem(known, path) == "MSRVTT_data.json: 3 bytes, published with 2"
