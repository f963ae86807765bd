"""One training step's features and loss: the four sources through the model, as one module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from clipvip.data import Batch, TextBatch
from clipvip.distributed import all_gather
from clipvip.losses import omnisource_loss
from clipvip.losses.gradcache import cached_backward
from clipvip.model import ClipVipModel
from clipvip.training.config import LossSection


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
