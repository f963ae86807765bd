"""The optimiser's parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from clipvip.model import NEW_PARAMETERS
from clipvip.training.config import OptimSection

_EMBEDDINGS = ("token_embedding", "position_embedding", "class_embedding", "proxy_tokens", "temporal_embedding")


def lr_factor(step: int, num_steps: int, warmup_ratio: float) -> float:
    """Share of the peak learning rate at update `step` (the first is 1): linear warm-up, then cosine to 0.

    Source: CLIP-ViP section 5.1; the released schedule (which replaces the exact 0 of the last step by 1e-8).
    """
    warmup = int(warmup_ratio * num_steps)
    if step <= warmup:
        return step / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(num_steps - warmup, 1)))


def decayed(name: str, parameter: nn.Parameter, rule: str) -> bool:
    """Whether weight decay applies.

    "matrices": weight matrices only: no norm, bias, temperature or embedding. "released": all but biases and
    logit_scale (the released code means to spare LayerNorms, but its names never match).
    """
    if rule == "released":
        return not name.endswith("bias") and name != "logit_scale"
    return parameter.ndim >= 2 and not any(part in name for part in _EMBEDDINGS)


def freeze_text(model: nn.Module, parts: str) -> None:
    """Take parts of the text side out of training: "none", its "tower", or "tower_and_projection"."""
    prefixes = {"none": (), "tower": ("text_model.",), "tower_and_projection": ("text_model.", "text_projection.")}[
        parts
    ]
    for name, parameter in model.named_parameters():
        if name.startswith(prefixes):
            parameter.requires_grad_(False)


class ReleasedAdamW(torch.optim.Optimizer):
    """AdamW as the released code has it: eps enters before the bias correction, and weights decay after the update.

    With g the gradient of update t, m and v its running mean and mean square:
        p <- p - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps), then p <- p - lr * weight_decay * p.
    In the terms of torch.optim.AdamW its eps is eps / sqrt(1 - beta2^t): 7 times eps at the first update with
    beta2 = 0.98, eps itself after some 200. That is as large as the gradients, so the first updates are smaller.
    Source: the optimiser of the released code, which it has from early versions of transformers.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """As in torch, for every parameter that has a gradient. The step count is on the host: nothing synchronises."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        state["step"] += 1
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].mul_(beta1).add_(grad, alpha=1 - beta1)
        mean_square = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        correction = math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
        parameter.addcdiv_(mean, mean_square.sqrt().add_(group["eps"]), value=-group["lr"] * correction)
        if group["weight_decay"]:  # not as a product with 1 - lr * weight_decay, which float32 rounds to 1 - n * 6e-8
            parameter.add_(parameter, alpha=-group["lr"] * group["weight_decay"])


def make_optimizer(model: nn.Module, config: OptimSection) -> torch.optim.Optimizer:
    """AdamW by `config.rule`, over groups of old and new parameters, decayed or not, and perhaps the temperature's own.

    Each group carries `peak_lr`; `set_lr` scales it. New parameters get `new_lr_factor` times the learning rate, the
    temperature `logit_scale_lr_factor` times.
    """
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = config.logit_scale_lr_factor if name == "logit_scale" else 1.0
            key = (name.startswith(NEW_PARAMETERS), decayed(name, parameter, config.decay), factor)
            groups.setdefault(key, []).append(parameter)
    params = [
        {
            "params": parameters,
            "peak_lr": config.lr * (config.new_lr_factor if new else 1.0) * factor,
            "weight_decay": config.weight_decay if decay else 0.0,
        }
        for (new, decay, factor), parameters in groups.items()
    ]
    betas = (config.beta1, config.beta2)
    if config.rule == "released":
        return ReleasedAdamW(params, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay)
    return torch.optim.AdamW(params, lr=config.lr, betas=betas, eps=config.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
