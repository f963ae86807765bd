"""What the trainer does around a step, on a few small clips."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from clipvip.data.manifest import write_manifest
from clipvip.model import MAX_LOGIT_SCALE
from clipvip.model.tokenizer import train_clip_tokenizer
from clipvip.records import Clip
from clipvip.training import load_recipe, train, trainer
from clipvip.training.state import WorkDir
from clipvip.training.step import OmnisourceObjective
from helpers_video import write_video
from helpers_world import overrides, write_recipe

Train = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains in a folder, with changes to the tiny recipe, on twelve clips that differ in nothing but noise."""
    folder = tmp_path_factory.mktemp("clips")
    clips = [
        Clip(
            str(i),
            video=write_video(folder / f"{i}.mp4", 5 + i, width=48),
            captions=(f"clip {i}", f"the {i}th"),
            split="train",
        )
        for i in range(12)
    ]
    validation = [Clip(f"val{i}", video=folder / f"{i}.mp4", captions=(f"clip {i}",), split="val") for i in range(3)]
    write_manifest(folder / "retrieval.jsonl", [*clips, *validation])
    train_clip_tokenizer([text for clip in clips for text in clip.captions]).save_pretrained(folder / "tokenizer")
    recipe = str(write_recipe(folder / "tiny.yaml"))

    def run(workdir: Path, *changes: str) -> dict[str, Any]:
        return train(load_recipe(recipe, [*overrides(folder), "train.trackers=[]", *changes]), workdir, progress=False)

    return run


def rows(workdir: Path, key: str) -> list[float]:
    """What the log says of this."""
    return [row[key] for row in WorkDir(workdir).read_log() if key in row]


def weights(model: Path) -> dict[str, Tensor]:
    return load_file(model / "model.safetensors")


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("direction", "bound"), [(1.0, 0.0), (-1.0, MAX_LOGIT_SCALE)])
def test_the_temperature_keeps_to_its_range(
    direction: float, bound: float, run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a temperature that runs away: with a loss that only pulls at it, it has to stop at the bound."""
    monkeypatch.setattr(OmnisourceObjective, "forward", lambda self, *_: direction * self.model.logit_scale)
    run(tmp_path / "run", "train.steps=2", "optim.lr=20", "data.val=null")
    assert rows(tmp_path / "run", "logit_scale") == pytest.approx([bound, bound])


def test_the_learning_rate_is_that_of_the_step_taken(run: Train, tmp_path: Path) -> None:
    """Catches a schedule that is not followed, or one step behind: the first step would learn nothing."""
    run(tmp_path / "run", "train.steps=5", "optim.lr=1e-3", "optim.warmup_ratio=0.4", "data.val=null")
    expected = [1 / 2, 1.0, *(0.5 + 0.5 * math.cos(math.pi * third / 3) for third in (1, 2, 3))]
    assert rows(tmp_path / "run", "lr") == pytest.approx([1e-3 * factor for factor in expected], abs=1e-12)


@pytest.mark.parametrize("rule", ["torch", "released"])
def test_a_run_that_broke_off_goes_on_from_its_checkpoint(
    rule: str, run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches moments of the optimiser, steps or draws that a checkpoint does not bring back."""
    settings = ("train.steps=6", "train.save_every=3", "train.eval_every=2", f"optim.rule={rule}")
    whole = run(tmp_path / "whole", *settings)
    update = trainer.Run.update

    def breaks(self: trainer.Run, *args: Any) -> tuple[Tensor, Tensor]:
        if self.step == 4:
            raise KeyboardInterrupt
        return update(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Run, "update", breaks)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", *settings)
    again = run(tmp_path / "broken", *settings)
    assert same(weights(tmp_path / "broken" / "model"), weights(tmp_path / "whole" / "model"))
    assert again["best_val_R@1"] == whole["best_val_R@1"]
    for key in ("step", "loss", "grad_norm", "val_R@1"):
        assert rows(tmp_path / "broken", key) == rows(tmp_path / "whole", key)


@pytest.mark.parametrize(("select", "steps"), [("best", [2]), ("last", [3, 4])])  # at step 4 the rate is 0
def test_the_weights_that_are_handed_over(
    select: str, steps: list[int], run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches the last weights under the name of the best, a later validation that replaces a better or equal one."""
    scores = iter((20.0, 60.0, 40.0, 60.0))
    monkeypatch.setattr(trainer, "retrieval_metrics", lambda *_: {"t2v": {"R@1": next(scores)}})
    settings = ("train.steps=4", "train.eval_every=1", "train.snapshot_every=1", f"train.select={select}")
    summary = run(tmp_path / "run", *settings)
    assert summary["best_val_R@1"] == 60.0
    ours = weights(tmp_path / "run" / "model")
    snapshots = {step: weights(tmp_path / "run" / "snapshots" / f"step-{step:06d}") for step in range(1, 5)}
    assert [step for step, theirs in snapshots.items() if same(ours, theirs)] == steps


@pytest.mark.parametrize("micro_batch", ["null", "3"])
@pytest.mark.parametrize(
    ("freeze", "still"),
    [("none", ()), ("tower", ("text_model.",)), ("tower_and_projection", ("text_model.", "text_projection."))],
)
def test_a_frozen_text_side_stays_as_it_is(
    freeze: str, still: tuple[str, ...], micro_batch: str, run: Train, tmp_path: Path
) -> None:
    """Catches a part that is trained although it is frozen, one too many that stays, or caching that fails."""
    settings = ("train.steps=3", "train.snapshot_every=1", "data.val=null", "optim.warmup_ratio=0")
    run(tmp_path / "run", *settings, f"optim.freeze_text={freeze}", f"train.micro_batch={micro_batch}")
    first, second = (weights(tmp_path / "run" / "snapshots" / f"step-00000{step}") for step in (1, 2))
    for name in first:
        assert torch.equal(first[name], second[name]) == name.startswith(still), name
