"""What a training step computes: features and loss, the update by the optimizer, and what is due after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from clipvip.data import Batch, TextBatch
from clipvip.distributed import all_gather
from clipvip.losses import omnisource_loss
from clipvip.losses.gradcache import cached_backward
from clipvip.model import NEW_PARAMETERS, ClipVipModel
from clipvip.training.config import LossSection, OptimSection, TrainSection

_EMBEDDINGS = ("token_embedding", "position_embedding", "class_embedding", "proxy_tokens", "temporal_embedding")


class OmnisourceObjective(nn.Module):
    """The model with its loss: `forward(batch, sizes)` is the scalar to minimise, that of the global batch.

    One module, so that a distributed wrapper sees one forward call a step whatever the loss variant.
    to_pixels: see `Batch.normalized`. autocast: compute activations in bfloat16.
    sizes: rows that each process has, if there are several.
    """

    def __init__(
        self,
        model: ClipVipModel,
        config: LossSection,
        to_pixels: Callable[[np.ndarray | Tensor], Tensor],
        *,
        autocast: bool = False,
    ):
        super().__init__()
        self.model = model
        self.config = config
        self.to_pixels = to_pixels
        self.autocast = autocast

    def forward(self, batch: Batch, sizes: Sequence[int] | None = None) -> Tensor:
        """The omnisource loss, scalar, the same on all processes; the mean of their gradients is its gradient."""
        return self.loss(self.features(batch), batch, sizes)

    def cached_backward(self, batch: Batch, size: int, sizes: Sequence[int] | None = None) -> Tensor:
        """`forward` and its backward pass in the memory of `size` clips; the loss, detached."""
        return cached_backward(self.features, batch.parts(size), lambda features: self.loss(features, batch, sizes))

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """Unit-norm features [B, E] of the sources that are there."""
        batch = batch.normalized(self.to_pixels)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.autocast):
            features = {"video": self.model.encode_video(batch.video)}
            if batch.frame is not None:
                features["frame"] = self.model.encode_video(batch.frame)
            features |= self._texts(batch.subtitle, batch.caption)
        return {name: rows[: len(batch.clip_ids)] for name, rows in features.items()}  # without a placeholder

    def loss(self, features: Mapping[str, Tensor], batch: Batch, sizes: Sequence[int] | None = None) -> Tensor:
        """The loss of the features of `batch` and of what the other processes have."""
        num_rows = len(batch.clip_ids)
        return omnisource_loss(
            features["video"],
            features.get("frame"),
            features["subtitle"],
            features.get("caption"),
            self.model.logit_scale,
            variant=self.config.variant,
            reduction=self.config.reduction,
            subtitle_mask=batch.subtitle.valid[:num_rows],
            caption_mask=None if batch.caption is None else batch.caption.valid[:num_rows],
            gather=partial(all_gather, sizes=sizes),
        )

    def _texts(self, subtitle: TextBatch, caption: TextBatch | None) -> dict[str, Tensor]:
        """Features of both texts from one pass through the text tower, padded to the longer one."""
        if caption is None:
            return {"subtitle": self.model.encode_text(subtitle.input_ids)}
        length = max(subtitle.input_ids.shape[1], caption.input_ids.shape[1])
        end = self.model.config.text_config.eos_token_id
        padded = [
            nn.functional.pad(ids, (0, length - ids.shape[1]), value=end)
            for ids in (subtitle.input_ids, caption.input_ids)
        ]
        features = self.model.encode_text(torch.cat(padded))
        first, second = features.split(len(subtitle.input_ids))
        return {"subtitle": first, "caption": second}


Duty: TypeAlias = Literal["log", "evaluate", "save", "snapshot"]


class Schedule:
    """What is due after which step: all but snapshots that are not wanted come after the last one, too."""

    def __init__(self, train: TrainSection, num_steps: int):
        self.num_steps = num_steps
        self.every: dict[Duty, int | None] = {
            "log": train.log_every,
            "evaluate": train.eval_every or num_steps,
            "save": train.save_every,
            "snapshot": train.snapshot_every,
        }

    def due(self, step: int) -> set[Duty]:
        """What to do after this step, the first being 1."""
        last = step == self.num_steps
        return {duty for duty, every in self.every.items() if every is not None and (last or step % every == 0)}

    def count(self, duty: Duty) -> int:
        """How often it is due in the whole run."""
        every = self.every[duty]
        return 0 if every is None else -(-self.num_steps // every)


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
