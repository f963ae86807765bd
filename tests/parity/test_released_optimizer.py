"""The released code's AdamW, written independently in NumPy, against five training steps of a released recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from clipvip.model import ClipVipConfig, ClipVipModel
from clipvip.training import load_recipe, train, trainer
from clipvip.training.config import OptimSection
from clipvip.training.step import make_optimizer, set_lr
from helpers_world import write_few_clips

Arrays = dict[str, np.ndarray]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
NUM_STEPS = 5


class OracleAdamW:
    """The released rule, parameter by parameter, in float32 as the released code computes."""

    def __init__(self, weights: Arrays, weight_decay: float, beta1: float = 0.9, beta2: float = 0.98):
        self.weights = {name: value.copy() for name, value in weights.items()}
        self.mean = {name: np.zeros_like(value) for name, value in weights.items()}
        self.square = {name: np.zeros_like(value) for name, value in weights.items()}
        self.weight_decay, self.beta1, self.beta2, self.num_updates = weight_decay, beta1, beta2, 0

    def step(self, grads: Arrays, lr: float) -> None:
        self.num_updates += 1
        size = lr * np.sqrt(1 - self.beta2**self.num_updates) / (1 - self.beta1**self.num_updates)
        for name, grad in grads.items():
            self.mean[name] = np.float32(self.beta1) * self.mean[name] + np.float32(1 - self.beta1) * grad
            self.square[name] = np.float32(self.beta2) * self.square[name] + np.float32(1 - self.beta2) * grad**2
            self.weights[name] -= np.float32(size) * self.mean[name] / (np.sqrt(self.square[name]) + np.float32(1e-6))
            if not name.endswith("bias") and name != "logit_scale":
                self.weights[name] -= np.float32(lr * self.weight_decay) * self.weights[name]


def arrays(model: nn.Module, of_gradients: bool = False) -> Arrays:
    values = {name: p.grad if of_gradients else p for name, p in model.named_parameters()}
    return {name: value.detach().numpy().copy() for name, value in values.items() if value is not None}


def difference(ours: Arrays, theirs: Arrays, start: Arrays) -> float:
    """How far apart two results are, as a share of how far the weights have moved."""

    def norm(a: Arrays, b: Arrays) -> float:
        return float(np.sqrt(sum(np.square(a[name].astype(np.float64) - b[name]).sum() for name in a)))

    return norm(ours, theirs) / norm(theirs, start)


@pytest.mark.parametrize(("rule", "low", "high"), [("released", 0.0, 1e-3), ("torch", 0.02, 0.2)])
def test_five_updates_of_a_model_at_the_rate_of_post_pre_training(rule: str, low: float, high: float) -> None:
    """Catches eps after the bias correction, where gradients are about as large as eps, as those of a large model."""
    sizes = {**SIZES, "num_hidden_layers": 2}
    text = {**sizes, "vocab_size": 50, "bos_token_id": 48, "max_position_embeddings": 16, "eos_token_id": 49}
    torch.manual_seed(0)
    model = ClipVipModel(ClipVipConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16}))
    section = OptimSection(rule=rule, lr=5e-6, weight_decay=0.05, decay="released")
    optimizer, start = make_optimizer(model, section), arrays(model)
    oracle = OracleAdamW(start, weight_decay=0.05)
    for step in range(1, NUM_STEPS + 1):
        for parameter in model.parameters():
            parameter.grad = 4e-5 * torch.randn_like(parameter)
        set_lr(optimizer, step / NUM_STEPS)
        optimizer.step()
        oracle.step(arrays(model, of_gradients=True), 5e-6 * step / NUM_STEPS)
    assert low <= difference(arrays(model), oracle.weights, start) < high


class Stop(Exception):
    """Ends a run after the steps that a test looks at."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, and CLIP weights to start from."""
    folder = write_few_clips(tmp_path_factory.mktemp("world"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = {**SIZES, **special, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    torch.manual_seed(0)
    clip = CLIPModel(
        CLIPConfig(text_config=text, vision_config={**SIZES, "image_size": 32, "patch_size": 16}, projection_dim=16)
    )
    clip.save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    return folder


@contextmanager
def each_update(seen: Callable[[trainer.Run], None]) -> Iterator[None]:
    """Within the block `seen` is called after each update of a run; its first call comes before the first update."""
    update = trainer.Run.update

    def watched(self: trainer.Run, *args: object) -> tuple[torch.Tensor, torch.Tensor]:
        if self.step == 0:
            seen(self)
        result = update(self, *args)  # type: ignore[arg-type]
        seen(self)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Run, "update", watched)
        yield


@pytest.mark.parametrize(("rule", "low", "high"), [("released", 0.0, 1e-3), ("torch", 0.02, 0.5)])
def test_five_steps_of_a_released_recipe(rule: str, low: float, high: float, world: Path, tmp_path: Path) -> None:
    """Catches a recipe that says "released" and trains by another rule, other groups or other settings."""
    settings = [
        f"model.init={world / 'clip'}", f"data.train={world / 'retrieval.jsonl'}", "data.val=null",
        "train.batch_size=4", "data.num_workers=0", "train.trackers=[]",
        "optim.clip_norm=3e-2",  # 3e4 parameters, so entries are about as small as those of 1.5e8 parameters at norm 1
    ]  # fmt: skip
    if rule == "torch":
        settings.append("optim.rule=torch")
    weights: list[Arrays] = []
    rates: list[float] = []
    oracle: list[OracleAdamW] = []

    def seen(run: trainer.Run) -> None:
        weights.append(arrays(run.model))
        if len(weights) == 1:
            oracle.append(OracleAdamW(weights[0], weight_decay=0.2))
            return
        rates.append(run.optimizer.param_groups[0]["lr"])
        oracle[0].step(arrays(run.model, of_gradients=True), rates[-1])
        if len(rates) == NUM_STEPS:
            raise Stop

    with each_update(seen), pytest.raises(Stop):
        train(load_recipe("finetune/msrvtt-b32@released", settings), tmp_path / "run", progress=False)
    # 20 clips in batches of 4 are 5 steps; of 100 passes 1 % are warm-up
    assert rates == pytest.approx([1e-6 * step / 5 for step in range(1, NUM_STEPS + 1)], rel=1e-6)
    assert low <= difference(weights[-1], oracle[0].weights, weights[0]) < high
