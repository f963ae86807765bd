"""`clipvip train --dry-run` through the command line, in one process and in two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clipvip.training import load_recipe
from helpers_cli import run_here
from helpers_world import overrides, write_few_clips, write_recipe


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_few_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml")


def test_people_and_programs_get_a_plan_and_nothing_else_happens(
    world: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches files left anywhere, a work folder that is wanted or touched, JSON with other things around it, and a
    printed recipe that is not the one that would run."""
    monkeypatch.chdir(tmp_path)
    command = ["train", recipe, *overrides(world), "--dry-run"]
    assert run_here(*command) == 0
    told = capsys.readouterr().out
    for section in ("model\n", "data\n", "memory, a process\n", "time\n"):
        assert f"\n{section}" in told
    assert "validations (4 of 3 clips), checkpoints (6)" in told
    resolved = yaml.safe_load(told.partition("# the recipe, resolved\n")[2])
    assert resolved == json.loads(load_recipe(str(recipe), overrides(world)).model_dump_json())
    assert run_here(*command, "train.micro_batch=2", "--json", "--workdir", tmp_path / "run") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"]["train"]["micro_batch"] == found["data"]["micro_batch"] == 2
    assert not list(tmp_path.iterdir())


def test_a_plan_that_does_not_fit_is_printed(
    world: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches text that only knows runs that go well."""
    monkeypatch.setattr("clipvip.training.plan.free_memory", lambda _: 5 * 2**20)
    assert run_here("train", recipe, *overrides(world), "train.batch_size=16", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "not timed" in told
    assert "note: does not fit: 16 clips at once take about" in told
    assert "train.micro_batch=" in told


@pytest.mark.parametrize(
    "change", ["train.batch_size=64", "train.trackers=[nope]", "optim.lrr=1", "model.tokenizer=", "data.train=nowhere"]
)
def test_a_recipe_is_refused_as_by_the_run(
    change: str, world: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a plan for a recipe that the run would refuse, or another word for what is wrong with it."""
    refusals = []
    for way in (["--dry-run"], ["--workdir", tmp_path / "run"]):
        code = run_here("train", recipe, *overrides(world), change, *way)
        *_, line = capsys.readouterr().err.splitlines()
        refusals.append((code, line))
    assert refusals[0] == refusals[1]
    assert refusals[0][0] in (1, 2)


def test_a_list_is_no_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an option that is accepted and ignored."""
    assert run_here("train", "--list", "--dry-run") == 2
    assert "leave out --dry-run" in capsys.readouterr().err


def test_all_processes_take_part_and_one_speaks(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches a plan for one process where several were started, or one that each of them prints."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*launcher, "-m", "clipvip", "train", str(recipe), *overrides(world), "--dry-run", "--json"],
        capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=tmp_path,
    )  # fmt: skip
    [told] = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    found = json.loads(told)
    assert (found["data"]["num_processes"], found["data"]["clips_per_process"]) == (2, 4)
    assert found["time"]["num_timed"] == 3
    assert found["fits"]
    assert not list(tmp_path.iterdir())
