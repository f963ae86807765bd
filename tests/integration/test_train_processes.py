"""Training in several processes, started by torchrun as on a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipvip.data.manifest import read_manifest, write_manifest
from clipvip.records import Clip
from clipvip.training import load_recipe, train
from clipvip.training.state import WorkDir
from helpers_world import overrides, write_recipe, write_tiny_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml")


def launched(recipe: Path, settings: list[str], workdir: Path) -> list[str]:
    """The command of two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*launcher, "-m", "clipvip", "train", str(recipe), *settings, "--workdir", str(workdir), "--json"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def losses(workdir: Path) -> list[float]:
    return [row["loss"] for row in WorkDir(workdir).read_log() if "loss" in row]


def assert_like(ours: Path, expected: Path) -> None:
    """The same curve and the same weights, but for the order of a few sums."""
    assert losses(ours) == pytest.approx(losses(expected), rel=1e-4)
    first, second = (load_file(path / "model" / "model.safetensors") for path in (ours, expected))
    for name, weight in second.items():
        torch.testing.assert_close(first[name], weight, atol=1e-3, rtol=1e-2, msg=name)


def test_two_processes_learn_what_one_learns(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches a share seen twice, local negatives, gradients that are not shared, a validation that counts clips of one
    process alone, two writers of one log, and gradient caching that is another training."""
    settings = [*overrides(world), "train.steps=12", "train.eval_every=6", "data.subtitle=subtitle"]
    settings += [f"data.train={world / 'pretrain.jsonl'}", "loss.variant=vsc+fc"]
    one = train(load_recipe(str(recipe), settings), tmp_path / "one", progress=False)
    for name, more in (("two", []), ("cached", ["train.micro_batch=3"])):
        run = subprocess.run(
            launched(recipe, [*settings, *more], tmp_path / name),
            capture_output=True, text=True, check=True, env=environment(),
        )  # fmt: skip
        told = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
        assert len(told) == 1  # the main process speaks for all
        assert told[0]["best_val_R@1"] == one["best_val_R@1"]
        assert_like(tmp_path / name, tmp_path / "one")
        rows = WorkDir(tmp_path / name).read_log()
        assert [row["step"] for row in rows] == [row["step"] for row in WorkDir(tmp_path / "one").read_log()]


def test_interrupted_processes_save_once_and_one_process_goes_on(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches processes that stop at different steps, and a checkpoint that only as many processes can read."""
    settings = [*overrides(world), "train.steps=30", "train.eval_every=30", "data.num_workers=1"]
    log = tmp_path / "run" / "log.jsonl"
    command = launched(recipe, settings, tmp_path / "run")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as run:
        while run.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") > 4):
            time.sleep(0.01)  # waiting for another process, not for a guess about its speed
        run.send_signal(signal.SIGTERM)
        _, told = run.communicate()
    assert run.returncode != 0
    assert b"the same command goes on" in told, told.decode()
    [newest] = (tmp_path / "run" / "checkpoints").iterdir()
    assert int(newest.name.removeprefix("step-")) == WorkDir(tmp_path / "run").read_log()[-1]["step"] < 30
    train(load_recipe(str(recipe), settings), tmp_path / "run", progress=False)
    train(load_recipe(str(recipe), settings), tmp_path / "whole", progress=False)
    assert_like(tmp_path / "run", tmp_path / "whole")


def test_a_share_without_a_good_clip_is_skipped_like_others(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches processes that wait for ever for one that has nothing to encode, and failures counted by one alone."""
    clips = read_manifest(world / "retrieval.jsonl", split="train")[:4]
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    bad = [Clip(f"bad{number}", video=broken, captions=("x",), split="train") for number in range(4)]
    write_manifest(tmp_path / "m.jsonl", [*clips, *bad])
    settings = [*overrides(world), f"data.train={tmp_path / 'm.jsonl'}", "data.val=null", "train.batch_size=2"]
    settings += ["train.steps=4", "data.on_decode_error=skip", "data.max_bad_share=0.6", "train.seed=0"]
    run = subprocess.run(
        launched(recipe, settings, tmp_path / "run"), capture_output=True, text=True, check=False, env=environment()
    )
    if "not one clip of a batch" in run.stderr:  # both shares of a batch were bad: no loss, said by the main process
        assert run.stderr.count("not one clip of a batch") == 1
        return
    assert run.returncode == 0, run.stderr
    summary = json.loads(next(line for line in run.stdout.splitlines() if line.startswith("{")))
    assert summary["skipped"]
    assert all("broken.mp4" in reason for reason in summary["skipped"].values())


def test_a_folder_has_room_for_one_run(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches two processes that were meant to be one run and do not see each other: both would write here."""
    work = WorkDir(tmp_path / "run")
    with work.claimed():
        run = subprocess.run(
            [sys.executable, "-m", "clipvip", "train", str(recipe), *overrides(world), "--workdir", str(work.path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert run.returncode == 1
    assert "another run is at work there" in run.stderr
    assert "torchrun" in run.stderr


def test_processes_that_do_not_see_each_other_are_refused(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches a launch of two that silently becomes two runs, or waits for ever."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    (tmp_path / "alone.py").write_text(ALONE)
    run = subprocess.run(
        [*launcher, str(tmp_path / "alone.py"), str(recipe), str(tmp_path / "run"), *overrides(world)],
        capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    assert "2 processes were started, but this one sees 1" in run.stderr


ALONE = """
import sys
from pathlib import Path
from accelerate import Accelerator
Accelerator()  # without a GPU and unasked, accelerate takes each process for a run of its own
from clipvip.training import load_recipe, train
train(load_recipe(sys.argv[1], sys.argv[3:]), Path(sys.argv[2]), progress=False)
"""
