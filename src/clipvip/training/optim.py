"""The optimiser's parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

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


def make_optimizer(model: nn.Module, config: OptimSection) -> torch.optim.AdamW:
    """AdamW over up to four groups: old and new parameters, decayed or not.

    Each group carries `peak_lr`; `set_lr` scales it. New parameters get `new_lr_factor` times the learning rate.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith(NEW_PARAMETERS), decayed(name, parameter, config.decay))
            groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak_lr": config.lr * (config.new_lr_factor if new else 1.0),
                "weight_decay": config.weight_decay if decay else 0.0,
            }
            for (new, decay), parameters in groups.items()
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
