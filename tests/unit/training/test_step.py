"""The four sources of a batch on their way through the model, one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clipvip.data.dataset import Batch, TextBatch
from clipvip.losses import omnisource_loss
from clipvip.training.config import LossSection
from clipvip.training.step import OmnisourceObjective
from helpers_golden import golden_config, golden_model

NUM_CLIPS = 5


def texts(length: int, missing: int) -> TextBatch:
    """Random texts; one clip has none."""
    ids = torch.randint(1, 97, (NUM_CLIPS, length), generator=torch.Generator().manual_seed(length))
    ids[:, -1] = 99
    return TextBatch(ids, torch.ones_like(ids), torch.arange(NUM_CLIPS) != missing)


def as_it_is(pictures: Tensor) -> Tensor:
    raise AssertionError("pixel values need no change")


@pytest.mark.parametrize("lengths", [(4, 7), (7, 4)])
def test_each_source_reaches_the_loss_as_what_it_is(lengths: tuple[int, int]) -> None:
    """Catches S and C exchanged on their common way through the text tower, one's padding read as the other's words,
    a mask with the wrong text, and frames made of the video."""
    model, config = golden_model(), golden_config()
    size = config.vision.image_size
    random = torch.Generator().manual_seed(0)
    pictures = torch.randn(NUM_CLIPS, 5, 3, size, size, generator=random, dtype=torch.float64)
    video, frame = pictures[:, :4], pictures[:, 4:]
    subtitle, caption = texts(lengths[0], missing=1), texts(lengths[1], missing=3)
    batch = Batch(tuple("abcde"), video, frame, subtitle, caption)
    with torch.no_grad():
        ours = OmnisourceObjective(model, LossSection(variant="vsc+fc", reduction="sum"), as_it_is)(batch)
        expected = omnisource_loss(
            model.encode_video(video),
            model.encode_video(frame),
            model.encode_text(subtitle.input_ids),
            model.encode_text(caption.input_ids),
            model.logit_scale,
            variant="vsc+fc",
            reduction="sum",
            subtitle_mask=subtitle.valid,
            caption_mask=caption.valid,
        )
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=0)
