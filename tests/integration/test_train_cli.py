"""Training through the command line: killed runs, refusals, and the files a run leaves."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import clipvip
from clipvip.data.manifest import read_manifest, write_manifest
from clipvip.data.shards import write_shards
from clipvip.errors import ConfigError, ManifestError, TrainingError, UsageError, VideoDecodeError
from clipvip.model.kernels.training import FastAttention
from clipvip.records import Clip
from clipvip.training import load_recipe, train, trainer
from clipvip.training.state import WorkDir
from helpers_world import overrides, write_recipe, write_tiny_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml")


@pytest.fixture(scope="module")
def finished(world: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train(load_recipe(str(recipe), overrides(world)), workdir, progress=False)
    return workdir


def command(recipe: Path, world: Path, workdir: Path) -> list[str]:
    return [
        sys.executable, "-m", "clipvip", "train", str(recipe), *overrides(world), "--workdir", str(workdir), "--json",
    ]  # fmt: skip


def weights(workdir: Path) -> dict[str, Tensor]:
    return load_file(workdir / "model" / "model.safetensors")


def kill_when(recipe: Path, world: Path, workdir: Path, moment: Callable[[], bool]) -> bool:
    """Start a run and SIGKILL it at some moment; False if it ended before that came."""
    with subprocess.Popen(command(recipe, world, workdir), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        while run.poll() is None and not moment():
            time.sleep(0.001)  # waiting for another process, not for a guess about its speed
        run.send_signal(signal.SIGKILL)
        return run.wait() == -signal.SIGKILL


def kill_and_resume(recipe: Path, world: Path, workdir: Path, kills: int) -> None:
    """A run that is killed so often, by turns at any line of its log and while it writes a folder; then its end."""
    random_ = random.Random(time.time_ns())
    log = workdir / "log.jsonl"

    def lines() -> int:
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def writing() -> bool:
        return any(workdir.glob("**/*.partial"))

    killed = 0
    for number in range(kills):
        at = lines() + random_.randint(1, 8)
        killed += kill_when(recipe, world, workdir, writing if number % 2 else lambda at=at: lines() >= at)
    assert killed > kills // 4
    subprocess.run(command(recipe, world, workdir), capture_output=True, check=True)


def assert_same_run(workdir: Path, finished: Path) -> None:
    ours, expected = weights(workdir), weights(finished)
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in ours)

    def curve(path: Path) -> list[dict[str, float]]:
        rows = WorkDir(path).read_log()
        speed = {"clips_per_s", "data_wait", "mfu", "peak_memory_gib"}
        return [{key: value for key, value in row.items() if key not in speed} for row in rows]

    assert curve(workdir) == curve(finished)


def test_killed_run_ends_like_an_uninterrupted_one(world: Path, recipe: Path, finished: Path, tmp_path: Path) -> None:
    """Catches state lost in a checkpoint (optimiser, order, draws, best score), half-written ones that are taken for
    whole, and log lines written twice."""
    kill_and_resume(recipe, world, tmp_path / "killed", kills=4)
    assert_same_run(tmp_path / "killed", finished)


@pytest.mark.long
def test_twenty_kills_at_random_moments(world: Path, recipe: Path, finished: Path, tmp_path: Path) -> None:
    """Catches the rare moment: a kill while a checkpoint, the best model or the log is being written."""
    for number in range(4):
        kill_and_resume(recipe, world, tmp_path / str(number), kills=5)
        assert_same_run(tmp_path / str(number), finished)


def test_a_full_disk_is_one_line_and_costs_nothing(world: Path, recipe: Path, finished: Path, tmp_path: Path) -> None:
    """Catches a traceback, a half-written checkpoint that is resumed from, and a lost one from before."""
    workdir = tmp_path / "run"
    assert kill_when(recipe, world, workdir, (workdir / "checkpoints" / "step-000014").exists)
    before = sorted(path.name for path in (workdir / "checkpoints").glob("step-*") if path.name[-1].isdigit())

    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # less than the weights

    full = subprocess.run(
        command(recipe, world, workdir), capture_output=True, text=True, check=False, preexec_fn=no_large_files
    )
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    told = full.stderr.splitlines()[-1]
    assert re.search(r"clipvip: \S*(best|step-0000\d\d): cannot be written \(.*make room, and the same command", told)
    after = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert after == before
    subprocess.run(command(recipe, world, workdir), capture_output=True, check=True)
    assert_same_run(workdir, finished)


def test_snapshots_are_models_that_stay(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches snapshots that are dropped like checkpoints, or cannot be started from."""
    changed = [*overrides(world), "data.val=null", "train.steps=8", "train.snapshot_every=3", "train.save_every=2"]
    train(load_recipe(str(recipe), changed), tmp_path / "run", progress=False)
    snapshots = sorted((tmp_path / "run" / "snapshots").iterdir())
    assert [path.name for path in snapshots] == ["step-000003", "step-000006", "step-000008"]
    assert clipvip.load(snapshots[0]).encode_texts(["a red circle"]).shape == (1, 16)
    first, last = (load_file(path / "model.safetensors") for path in (snapshots[0], snapshots[-1]))
    assert not torch.equal(first["logit_scale"], last["logit_scale"])
    started = [*changed, f"model.init={snapshots[0]}", "model.architecture=null", "train.steps=1"]
    train(load_recipe(str(recipe), started), tmp_path / "tuned", progress=False)


def test_trackers_are_those_asked_for(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches a tracker that is silently left out, and curves nobody asked for."""
    short = [*overrides(world), "data.val=null", "train.steps=1"]
    for given, what in (
        ("[wandbb]", "'wandbb' is unknown; choose of aim, .*wandb"),
        ("[aim]", "'aim' is not installed"),
    ):
        with pytest.raises(ConfigError, match=f"train.trackers: {what}"):
            train(load_recipe(str(recipe), [*short, f"train.trackers={given}"]), tmp_path / "a", progress=False)
    train(load_recipe(str(recipe), [*short, "train.trackers=[]"]), tmp_path / "none", progress=False)
    assert not list((tmp_path / "none").glob("tensorboard*"))
    train(load_recipe(str(recipe), short), tmp_path / "default", progress=False)
    assert list((tmp_path / "default" / "tensorboard").glob("events*"))


def test_the_log_tells_what_holds_a_run_up(finished: Path) -> None:
    """Catches rates of nothing: a share of time outside 0 to 1, operations or memory that were never counted."""
    rows = [row for row in WorkDir(finished).read_log() if "loss" in row]
    assert all(0 <= row["data_wait"] < 1 for row in rows)
    assert all(0 < row["mfu"] < 1 for row in rows)
    assert all(0.1 < row["peak_memory_gib"] < 100 for row in rows)
    assert all(row["clips_per_s"] > 1 for row in rows)


def test_finished_run_is_not_run_again(world: Path, recipe: Path, finished: Path) -> None:
    """Catches a second training on top of a finished one."""
    before = (finished / "model" / "model.safetensors").stat().st_mtime_ns
    summary = train(load_recipe(str(recipe), overrides(world)), finished, progress=False)
    assert summary["steps"] == 40
    assert (finished / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert not (finished / "checkpoints").exists()


def test_result_is_the_best_by_validation_and_loads(finished: Path) -> None:
    """Catches a selection that returns the last weights, and a model folder without its processor."""
    summary = json.loads((finished / "summary.json").read_text())
    scores = [row["val_R@1"] for row in WorkDir(finished).read_log() if "val_R@1" in row]
    assert len(scores) == 4
    assert summary["best_val_R@1"] == max(scores)
    encoder = clipvip.load(finished / "model", device="cpu")
    assert encoder.encode_texts(["a red circle"]).shape == (1, 16)
    best = load_file(finished / "best" / "model.safetensors")
    assert all(torch.equal(best[name], value) for name, value in weights(finished).items())


def test_other_recipe_in_the_same_folder_is_refused(world: Path, recipe: Path, finished: Path) -> None:
    """Catches two runs mixed in one folder."""
    with pytest.raises(TrainingError, match=r"train.seed was 0, now 1.*another --workdir"):
        train(load_recipe(str(recipe), [*overrides(world), "train.seed=1"]), finished, progress=False)


def test_decode_errors_follow_the_policy(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches bad clips replaced or dropped silently: raise names the file, skip lists it, up to a share."""
    clips = read_manifest(world / "retrieval.jsonl", split="train")[:16]
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    write_manifest(tmp_path / "m.jsonl", [*clips, Clip("bad", video=broken, captions=("x",), split="train")])
    settings = [*overrides(world), f"data.train={tmp_path / 'm.jsonl'}", "train.steps=6", "data.val=null"]
    for workers in (0, 1):
        raising = load_recipe(str(recipe), [*settings, f"data.num_workers={workers}"])
        with pytest.raises(VideoDecodeError, match=r"^bad: \S*broken\.mp4: not a media file.*\Z"):
            train(raising, tmp_path / f"raise{workers}", progress=False)
    skipping = load_recipe(str(recipe), [*settings, "data.on_decode_error=skip"])
    with pytest.raises(TrainingError, match=r"1 of 17 clips cannot be decoded.*max_bad_share=0\.05.*bad_clips\.jsonl"):
        train(skipping, tmp_path / "skip", progress=False)
    allowed = load_recipe(str(recipe), [*settings, "data.on_decode_error=skip", "data.max_bad_share=0.1"])
    summary = train(allowed, tmp_path / "skip", progress=False)  # in the same folder: it goes on
    assert list(summary["skipped"]) == ["bad"]
    assert "broken.mp4" in summary["skipped"]["bad"]
    [listed] = (tmp_path / "skip" / "bad_clips.jsonl").read_text().splitlines()
    assert json.loads(listed) == {"clip_id": "bad", "reason": summary["skipped"]["bad"]}


def test_shards_and_image_text_sets_train_like_files(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches shards that cannot be trained on, an image-text set without its C, and a source that is never drawn."""
    write_shards(world / "pretrain.jsonl", tmp_path / "shards", split="train", clips_per_shard=30)
    common = [*overrides(world), "data.subtitle=subtitle", "data.val=null", "loss.variant=vsc+fc", "train.steps=6"]
    mix = f"data.mix=[{{data: {world / 'images.jsonl'}, share: 0.5}}]"
    curves = {}
    for name, source in {"files": world / "pretrain.jsonl", "shards": tmp_path / "shards"}.items():
        settings = [*common, f"data.train={source}", mix, "data.cache=false"]
        summary = train(load_recipe(str(recipe), settings), tmp_path / name, progress=False)
        curves[name] = WorkDir(tmp_path / name).read_log()
        assert summary["clips"] == sum(
            len(read_manifest(world / manifest, split="train")) for manifest in ("pretrain.jsonl", "images.jsonl")
        )
    alone = load_recipe(str(recipe), [*common, f"data.train={tmp_path / 'shards'}"])
    plain = train(alone, tmp_path / "p", progress=False)
    assert plain["clips"] < summary["clips"]
    assert WorkDir(tmp_path / "p").read_log()[-1]["loss"] != curves["shards"][-1]["loss"]
    with pytest.raises(UsageError, match="these shards hold split 'train', not 'val'"):
        train(
            load_recipe(str(recipe), [*common, f"data.train={tmp_path / 'shards'}", "data.train_split=val"]),
            tmp_path / "x", progress=False,
        )  # fmt: skip


def test_every_loss_variant_trains_on_subtitles_and_captions(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches a variant whose sources the data room does not deliver, and worker processes that draw otherwise."""
    losses = {}
    for variant in ("vs+fc", "vs+vc", "vs+vc+fc", "vsc", "vsc+fc"):
        settings = [*overrides(world), f"data.train={world / 'pretrain.jsonl'}", "data.subtitle=subtitle"]
        settings += ["train.steps=2", "data.val=null", f"loss.variant={variant}"]
        train(load_recipe(str(recipe), settings), tmp_path / variant, progress=False)
        losses[variant] = [row["loss"] for row in WorkDir(tmp_path / variant).read_log()]
    assert len({values[0] for values in losses.values()}) == 5, "two variants gave the same loss"
    with_workers = [*settings, "data.num_workers=2"]
    train(load_recipe(str(recipe), with_workers), tmp_path / "workers", progress=False)
    assert [row["loss"] for row in WorkDir(tmp_path / "workers").read_log()] == losses["vsc+fc"]


def test_recipe_without_a_start_or_with_another_shape(
    world: Path, recipe: Path, finished: Path, tmp_path: Path
) -> None:
    """Catches a run that trains something else than was asked for."""
    with pytest.raises(ConfigError, match=r"model.init is not set"):
        train(load_recipe("demo/finetune", overrides(world)[:2]), tmp_path / "a", progress=False)
    settings = [*overrides(world), f"model.init={finished / 'model'}"]
    with pytest.raises(ConfigError, match="give one of them"):
        train(load_recipe(str(recipe), settings), tmp_path / "b", progress=False)
    settings += ["model.architecture=null", "model.num_proxies=2"]
    with pytest.raises(ConfigError, match="was trained with 4"):
        train(load_recipe(str(recipe), settings), tmp_path / "c", progress=False)


def test_misspelt_architecture_and_missing_captions_are_errors(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches a size that is silently the default, and a loss that silently loses its caption terms."""
    misspelt = [*overrides(world), "model.architecture.vision_config.hidden_sise=64"]
    with pytest.raises(ConfigError, match="unknown key 'hidden_sise'; did you mean 'hidden_size'"):
        train(load_recipe(str(recipe), misspelt), tmp_path / "a", progress=False)
    with pytest.raises(ManifestError, match="has a 'caption'"):
        train(load_recipe(str(recipe), [*overrides(world), "loss.variant=vsc+fc"]), tmp_path / "b", progress=False)


def test_a_run_that_diverges_stops_before_it_saves(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches NaN weights in a checkpoint: the run could then never recover."""
    wild = [*overrides(world), "optim.lr=1e30", "train.log_every=1000", "train.save_every=3", "data.val=null"]
    with pytest.raises(TrainingError, match=r"step 2: the loss .*lower optim.lr .* look at its 8 clips: train"):
        train(load_recipe(str(recipe), wild), tmp_path / "wild", progress=False)
    [*_, row] = WorkDir(tmp_path / "wild").read_log()
    assert row["step"] == 2  # not 3, where it was looked at
    assert len(set(row["not_finite"])) == 8
    assert not list((tmp_path / "wild").glob("checkpoints/*"))


def test_interruption_exits_with_the_signal(world: Path, recipe: Path, finished: Path, tmp_path: Path) -> None:
    """Catches Ctrl-C reported as a failure (exit 1), with a traceback, or with the steps since the last save lost."""

    def heed_ctrl_c() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it

    workdir = tmp_path / "run"
    log = workdir / "log.jsonl"
    for number, code, lines in ((signal.SIGINT, 130, 5), (signal.SIGTERM, 143, 20)):
        with subprocess.Popen(
            command(recipe, world, workdir), stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c
        ) as run:
            while run.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") > lines):
                time.sleep(0.01)  # waiting for another process, not for a guess about its speed
            run.send_signal(number)
            _, told = run.communicate()
        assert run.returncode == code, told
        assert b"Traceback" not in told
        assert b"the same command goes on" in told
        newest = max(int(path.name.removeprefix("step-")) for path in (workdir / "checkpoints").iterdir())
        assert newest == WorkDir(workdir).read_log()[-1]["step"]
    subprocess.run(command(recipe, world, workdir), capture_output=True, check=True)
    assert_same_run(workdir, finished)


@pytest.mark.parametrize("aggregator", ["mean", "transformer", "full"])
def test_every_aggregator_trains_saves_and_encodes(aggregator: str, world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches an aggregator that only exists in the configuration: config, trainer and inference in one go."""
    changed = [*overrides(world), f"model.aggregator={aggregator}", "train.steps=6", "train.eval_every=6"]
    summary = train(load_recipe(str(recipe), changed), tmp_path / "run", progress=False)
    assert summary["best_val_R@1"] is not None
    encoder = clipvip.load(tmp_path / "run" / "model")
    assert encoder.model.config.aggregator == aggregator
    videos = [clip.path for clip in read_manifest(world / "retrieval.jsonl")[:3]]
    assert encoder.encode_videos(videos).shape == (3, 16)


def test_temporal_layers_are_the_transformers_alone(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches an option that is accepted and ignored, or overruled by the weights a run starts from."""
    deep = [*overrides(world), "train.steps=1", "model.aggregator=transformer", "model.num_temporal_layers=2"]
    train(load_recipe(str(recipe), deep), tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="num_temporal_layers=2 with aggregator='vip': only 'transformer'"):
        train(load_recipe(str(recipe), [*deep, "model.aggregator=vip"]), tmp_path / "other", progress=False)
    start = [f"model.init={tmp_path / 'run' / 'model'}", "model.architecture=null", "model.num_temporal_layers=3"]
    with pytest.raises(ConfigError, match=r"model.num_temporal_layers=3, but .* was trained with 2"):
        train(load_recipe(str(recipe), [*deep, *start]), tmp_path / "more", progress=False)


def test_checkpointed_run_equals_a_plain_one(world: Path, recipe: Path, finished: Path, tmp_path: Path) -> None:
    """Catches the option being ignored (nothing is computed twice), or changing more than memory and time."""
    calls = {}
    plain = FastAttention.forward
    for name, option in (("plain", "false"), ("checkpointed", "true")):

        def forward(self: FastAttention, *args: Tensor, name: str = name) -> Tensor:
            calls[name] = calls.get(name, 0) + self.training
            return plain(self, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FastAttention, "forward", forward)
            changed = [*overrides(world), f"train.activation_checkpointing={option}"]
            train(load_recipe(str(recipe), changed), tmp_path / name, progress=False)
    assert calls["checkpointed"] == 2 * calls["plain"]
    ours, expected = weights(tmp_path / "checkpointed"), weights(finished)
    for name, weight in expected.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-4, rtol=1e-3, msg=name)


def test_matmul_precision_is_the_runs_own(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches a process left in reduced precision after a run that asked for it, or a run that never got it."""
    seen = []
    changed = [*overrides(world), "train.float32_matmul=medium", "train.steps=1"]
    with pytest.MonkeyPatch.context() as patch:
        loop = trainer.Run.go
        patch.setattr(trainer.Run, "go", lambda run: seen.append(torch.get_float32_matmul_precision()) or loop(run))
        train(load_recipe(str(recipe), changed), tmp_path / "run", progress=False)
    assert seen == ["medium"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_accelerates_own_configuration_changes_nothing(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches a float32 recipe that computes in what `accelerate config` was once told."""
    short = ["data.val=null", "train.steps=3"]
    for name, environment in (("plain", {}), ("configured", {"ACCELERATE_MIXED_PRECISION": "bf16"})):
        subprocess.run(
            [*command(recipe, world, tmp_path / name), *short],
            check=True, capture_output=True, env={**os.environ, **environment},
        )  # fmt: skip
    ours, plain = weights(tmp_path / "configured"), weights(tmp_path / "plain")
    assert all(torch.equal(ours[name], weight) for name, weight in plain.items())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_run_learns_the_same(world: Path, recipe: Path, tmp_path: Path) -> None:
    """Catches blocks that cannot be compiled, or are not, and kernels that compute something else."""
    short = [*overrides(world), "data.val=null", "train.steps=3"]
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    train(load_recipe(str(recipe), [*short, "train.compile=true"]), tmp_path / "run", progress=False)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    train(load_recipe(str(recipe), short), tmp_path / "plain", progress=False)
    ours, plain = (
        [row["loss"] for row in WorkDir(tmp_path / name).read_log() if "loss" in row] for name in ("run", "plain")
    )
    assert ours == pytest.approx(plain, rel=1e-4)


def test_compile_without_a_compiler_is_one_clear_line(
    world: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a page of compiler traceback where one line says what to do."""
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    run = subprocess.run(
        [*command(recipe, world, tmp_path / "run"), "train.compile=true"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    *_, told = run.stderr.splitlines()  # the progress line stands before it
    assert "Traceback" not in run.stderr
    assert told.startswith("clipvip: train.compile=true: ")
    assert "install a C++ compiler" in told
