"""What `plan` tells of a run, on a few small clips."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clipvip.errors import ConfigError, TrainingError, VideoDecodeError
from clipvip.training import build, load_recipe, trainer
from clipvip.training import plan as planning
from clipvip.training.build import build_model
from clipvip.training.config import Recipe
from clipvip.training.meter import matmul_rate, training_flops
from clipvip.training.plan import Source
from helpers_world import overrides, write_few_clips, write_recipe

Plan = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_few_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def plan(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of the tiny recipe with changes; whatever is written in the process is seen to be gone."""
    left = tmp_path / "left"
    left.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(left))
    monkeypatch.chdir(left)

    def plan(*changes: str) -> dict[str, Any]:
        found = planning.plan(recipe(world, *changes), progress=False)
        assert not list(left.iterdir())
        assert json.loads(json.dumps(found)) == found
        return found

    return plan


def recipe(world: Path, *changes: str) -> Recipe:
    path = write_recipe(world / "tiny.yaml")
    return load_recipe(str(path), [*overrides(world), *changes])


def lasting(found: dict[str, Any]) -> dict[str, Any]:
    """All that does not hang on the moment."""
    memory = {key: value for key, value in found["memory"].items() if key not in ("free", "peak")}
    sources = [{**source, "step_s": None} for source in found["data"]["sources"]]
    return {
        **found,
        "memory": memory,
        "time": found["time"]["not_counted"],
        "data": {**found["data"], "sources": sources},
    }


def test_a_plan_counts_what_the_run_has_and_says_the_same_again(plan: Plan, world: Path) -> None:
    """Catches parameters, passes or operations of another model or batch, and figures that hang on the moment."""
    found = plan("train.epochs=3", "train.steps=null", "train.save_every=5", "train.eval_every=4")
    model, _ = build_model(recipe(world).model)
    video = model.vision_model.embeddings
    assert video.proxy_tokens is not None
    assert video.temporal_embedding is not None
    assert found["model"]["parameters"] == {
        "total": sum(parameter.numel() for parameter in model.parameters()),
        "new": video.proxy_tokens.numel() + video.temporal_embedding.numel(),
    }
    [source] = found["data"]["sources"]
    flops = training_flops(model.config, 4, source["num_tokens"])
    assert found["model"]["flops"]["training_per_step"] == 8 * flops
    assert 0.3 < found["model"]["flops"]["forward_per_clip"] / flops < 0.5  # a backward pass is about two forward ones
    assert (found["data"]["num_clips"], found["data"]["num_steps"], found["data"]["num_passes"]) == (20, 6, 3)
    counted = {"validations": 2, "validation_clips": 3, "checkpoints": 2, "snapshots": 0}
    assert found["time"]["not_counted"] == counted
    assert found["fits"]
    assert not found["notes"]
    assert lasting(plan("train.epochs=3", "train.steps=null", "train.save_every=5", "train.eval_every=4")) == lasting(
        found
    )


def test_the_time_is_that_of_the_runs_own_steps(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a warm-up step that is counted, a sum that does not add up, more steps than the run has, and time for
    measuring memory told as that of a step."""
    updates = []
    update = trainer.Run.update
    monkeypatch.setattr(trainer.Run, "update", lambda run, *args: updates.append(run.step) or update(run, *args))
    monkeypatch.setattr(planning, "_median", lambda steps: (2.0 * len(steps), 0.5 * len(steps)))
    for steps, timed in ((40, 3), (3, 2), (1, 1)):
        found = plan(f"train.steps={steps}")
        assert updates == list(range(min(steps, 4)))
        updates.clear()
        times = found["time"]
        assert times["num_timed"] == timed
        assert times["step_s"] == pytest.approx(2.0 * timed)
        assert times["run_s"] == pytest.approx(2.0 * timed * steps)
        assert times["clips_per_s"] == pytest.approx(8 / (2.0 * timed))
        assert times["data_wait"] == pytest.approx(0.25)
        rate = found["model"]["flops"]["training_per_step"] / times["step_s"]
        assert times["mfu"] == pytest.approx(rate / matmul_rate(torch.device("cpu"), torch.float32))
        assert ("warm-up" in "".join(found["notes"])) == (steps == 1)


def test_each_source_is_timed_and_has_its_share(plan: Plan, world: Path) -> None:
    """Catches a source that is never looked at, image steps that are taken for video steps, and their memory too."""
    found = plan(f"data.mix=[{{data: {world / 'images.jsonl'}, share: 0.3}}]", "train.batch_size=4")
    videos, images = found["data"]["sources"]
    assert (videos["num_frames"], images["num_frames"]) == (4, 1)
    assert videos["num_steps"] + images["num_steps"] == 40
    assert images["num_steps"] > 0
    expected = sum(source["num_steps"] * source["step_s"] for source in (videos, images))
    assert found["time"]["run_s"] == pytest.approx(expected)
    assert found["time"]["num_timed"] == 6
    assert found["memory"]["per_clip"] == plan("train.batch_size=4")["memory"]["per_clip"]


def test_loaders_that_cannot_keep_up_are_the_time() -> None:
    """Catches a plan by steps that lived on batches fetched ahead: the run would take many times as long."""
    source = Source("clips", 10, 10, steps=[(9.0, 8.1), (2.0, 1.0), (1.0, 0.0), (4.0, 3.0)])
    assert source.expected() == (2.0, 1.0)
    source.loading_s = 1.5
    assert source.expected() == (2.0, 1.0)
    source.loading_s = 8.0
    assert source.expected() == (8.0, 7.0)  # the second that is not waited for stays


def test_loader_processes_are_timed_too(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches loading that is left out where it goes on in other processes, not shared out among them, or done with
    more threads than they have."""
    clock, threads = iter(range(0, 10**6, 10)), []
    here = partial(build.make_loader, num_workers=0)
    monkeypatch.setattr(build, "make_loader", lambda *args, num_workers, pin_memory: here(*args))
    monkeypatch.setattr(planning, "usable_cpus", lambda: 8)
    monkeypatch.setattr(planning, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))  # 10 s a look
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    found = plan("data.num_workers=2")
    assert found["time"]["step_s"] == pytest.approx(8 * 10 / 2)
    assert found["time"]["data_wait"] > 0.9
    assert "2 loader processes" in "".join(found["notes"])
    assert threads == [1, torch.get_num_threads()]


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory")])  # fmt: skip
def test_steps_that_run_out_of_memory_leave_advice(
    error: Exception, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback in the place of the plan, and advice to do the same again."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(trainer.Run, "update", fail)
    found = plan()
    assert not found["fits"]
    assert found["time"] is None
    assert found["memory"]["advised_micro_batch"] == 4
    assert found["notes"][0].startswith("does not fit: 8 clips at once take about 0.00 GiB")
    assert "train.micro_batch=4 takes" in found["notes"][0]
    assert plan("train.micro_batch=2")["memory"]["advised_micro_batch"] == 1


def test_a_batch_larger_than_memory_is_not_tried(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a plan that brings the machine down, or that finds nothing to advise where parts would fit."""
    fixed = sum(plan("train.micro_batch=4")["memory"]["fixed"].values())
    clip = sum(plan()["memory"]["per_clip"].values())
    monkeypatch.setattr(trainer.Run, "update", lambda *_: pytest.fail("it was tried"))
    monkeypatch.setattr(planning, "free_memory", lambda _: fixed + 7 * clip)
    found = plan()
    assert found["memory"]["free"] < found["memory"]["estimate"]
    assert found["memory"]["advised_micro_batch"] in (1, 2, 4)
    monkeypatch.setattr(planning, "free_memory", lambda _: fixed // 2)
    found = plan()
    assert found["memory"]["advised_micro_batch"] is None
    assert "activation_checkpointing" in found["notes"][0]


def test_no_room_for_the_model_itself(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback where one line says it, and other errors told as a lack of memory."""
    for error, expected in ((MemoryError(), TrainingError), (RuntimeError("shapes"), RuntimeError)):

        def fail(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(planning, "measure", fail)
        with pytest.raises(expected, match="memory does not hold" if expected is TrainingError else "shapes"):
            plan()


def test_caching_and_checkpointing_take_less(plan: Plan) -> None:
    """Catches an estimate that does not see train.micro_batch or train.activation_checkpointing."""
    whole = plan("train.batch_size=16", "model.architecture.vision_config.num_hidden_layers=4")
    for change in ("train.micro_batch=2", "train.activation_checkpointing=true"):
        less = plan("train.batch_size=16", "model.architecture.vision_config.num_hidden_layers=4", change)
        assert less["memory"]["estimate"] < whole["memory"]["estimate"]
        assert less["fits"]


def test_what_stops_a_run_stops_its_plan(plan: Plan, world: Path, tmp_path: Path) -> None:
    """Catches a plan of a run that cannot be: its errors are those of the run, its draws too."""
    with pytest.raises(ConfigError, match=r"train.trackers: 'nope' is unknown"):
        plan("train.trackers=[nope]")
    with pytest.raises(ConfigError, match="there are only 20 clips"):
        plan("train.batch_size=32")
    lines = (world / "retrieval.jsonl").read_text().splitlines()
    broken = world / "broken.jsonl"
    (world / "broken.mp4").write_text("not a video")
    broken.write_text("\n".join([*lines[:7], lines[7].replace("7.mp4", "broken.mp4")]) + "\n")
    with pytest.raises(VideoDecodeError, match=r"broken\.mp4: not a media file"):
        plan(f"data.train={broken}")
    found = plan(f"data.train={broken}", "data.on_decode_error=skip", "data.max_bad_share=0.5")
    assert "7 is left out: " in found["notes"][0]


def test_a_run_that_diverges_at_once_is_told(plan: Plan) -> None:
    """Catches a plan that times steps of NaN and says nothing."""
    found = plan("optim.lr=1e30", "optim.warmup_ratio=0")
    assert any("is not finite; a run would stop there" in note for note in found["notes"])


def test_trackers_hear_nothing(plan: Plan, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an empty run in everybody's dashboards for each plan."""
    seen = []
    start = planning.start_accelerator
    monkeypatch.setattr(planning, "start_accelerator", lambda names, folder: seen.append(names) or start(names, folder))
    plan("train.steps=1")
    assert seen == [()]
