"""One training step's features and loss: the four sources through the model, as one module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipvip.data.dataset import Batch, TextBatch
from clipvip.losses import omnisource_loss
from clipvip.model import ClipVipModel
from clipvip.training.config import LossSection


class OmnisourceObjective(nn.Module):
    """The model with its loss: `forward(batch)` is the scalar to minimise.

    One module, so that a distributed wrapper sees one forward call a step whatever the loss variant.
    """

    def __init__(self, model: ClipVipModel, config: LossSection):
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: Batch) -> Tensor:
        """The omnisource loss of a batch, scalar."""
        subtitle, caption = self._texts(batch.subtitle, batch.caption)
        return omnisource_loss(
            self.model.encode_video(batch.video),
            None if batch.frame is None else self.model.encode_video(batch.frame),
            subtitle,
            caption,
            self.model.logit_scale,
            variant=self.config.variant,
            reduction=self.config.reduction,
            subtitle_mask=batch.subtitle.valid,
            caption_mask=None if batch.caption is None else batch.caption.valid,
        )

    def _texts(self, subtitle: TextBatch, caption: TextBatch | None) -> tuple[Tensor, Tensor | None]:
        """Features of both texts from one pass through the text tower, padded to the longer one."""
        if caption is None:
            return self.model.encode_text(subtitle.input_ids), None
        length = max(subtitle.input_ids.shape[1], caption.input_ids.shape[1])
        end = self.model.config.text_config.eos_token_id
        padded = [
            nn.functional.pad(ids, (0, length - ids.shape[1]), value=end)
            for ids in (subtitle.input_ids, caption.input_ids)
        ]
        features = self.model.encode_text(torch.cat(padded))
        first, second = features.split(len(subtitle.input_ids))
        return first, second
