"""Parameter groups and learning rates."""

from __future__ import annotations

import pytest
import torch

from clipvip.model import NEW_PARAMETERS, ClipVipModel
from clipvip.training.config import OptimSection
from clipvip.training.step import lr_factor, make_optimizer, set_lr
from helpers_golden import golden_config


def test_groups_cover_every_parameter_once() -> None:
    """Catches a parameter that is never trained, decayed by mistake, or trained at the wrong rate."""
    model = ClipVipModel(golden_config())
    optimizer = make_optimizer(model, OptimSection(lr=1e-3, new_lr_factor=30, weight_decay=0.2))
    set_lr(optimizer, 0.5)
    settings = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert len(settings) == sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        lr, decay = settings[id(parameter)]
        assert lr == pytest.approx(0.5e-3 * (30 if name.startswith(NEW_PARAMETERS) else 1)), name
        lookup = any(part.endswith("_embedding") and part != "patch_embedding" for part in name.split("."))
        is_matrix = parameter.ndim >= 2 and not lookup and "proxy" not in name
        assert decay == (0.2 if is_matrix else 0.0), name


def test_the_temperature_has_a_rate_of_its_own_only_where_it_differs() -> None:
    """Catches a factor that reaches other parameters, and groups that old checkpoints could not be loaded into."""
    model = ClipVipModel(golden_config())
    plain = make_optimizer(model, OptimSection(lr=1e-3))
    faster = make_optimizer(model, OptimSection(lr=1e-3, logit_scale_lr_factor=10))
    assert len(faster.param_groups) == len(plain.param_groups) + 1
    rates = {id(p): group["peak_lr"] for group in faster.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(1e-2 if name == "logit_scale" else 1e-3), name


def test_schedule_ends_at_zero_and_peaks_after_warm_up() -> None:
    """Catches a warm-up that never reaches the peak, and a schedule without warm-up that divides by zero."""
    values = [lr_factor(step, 100, 0.1) for step in range(1, 101)]
    assert values[9] == max(values) == 1.0
    assert values[-1] == pytest.approx(0.0, abs=1e-12)
    assert lr_factor(1, 10, 0.0) < 1.0
    assert lr_factor(1, 1, 0.0) == pytest.approx(0.0, abs=1e-12)


def test_fused_step_follows_adamw() -> None:
    """Catches betas, eps or decay not handed on: one step against the formula."""
    model = torch.nn.Linear(2, 2, bias=False)
    start = model.weight.detach().clone()
    config = OptimSection(lr=0.1, weight_decay=0.5, beta1=0.8, beta2=0.9, eps=1e-3)
    optimizer = make_optimizer(model, config)
    set_lr(optimizer, 1.0)
    model.weight.grad = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
    optimizer.step()
    grad = model.weight.grad
    expected = start * (1 - 0.1 * 0.5) - 0.1 * grad / (grad.abs() + 1e-3)
    torch.testing.assert_close(model.weight.detach(), expected)
