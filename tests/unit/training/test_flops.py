"""The operation counts against torch's own counter over real passes, and against the figures that docs quote."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clipvip.model import AGGREGATORS, ClipVipConfig, ClipVipModel
from clipvip.training.meter import text_flops, training_flops, video_flops, vision_layers

TINY = {"num_attention_heads": 2}
VIT_B = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


def tiny(aggregator: str, layers: int = 3) -> ClipVipConfig:
    """No two sizes alike, so that none can stand in for another."""
    return ClipVipConfig(
        text_config={**TINY, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": layers, "vocab_size": 20,
                     "bos_token_id": 18, "eos_token_id": 19},
        vision_config={**TINY, "hidden_size": 24, "intermediate_size": 56, "num_hidden_layers": layers,
                       "image_size": 36, "patch_size": 12},
        projection_dim=10,
        num_frames=4,
        num_proxies=3 if aggregator in ("vip", "full") else None,
        aggregator=aggregator,
        num_temporal_layers=2,
    )  # fmt: skip


def counted(work: Callable[[], Tensor], training: bool) -> int:
    """Operations that torch sees; attention is made to be products: torch does not count its fused CPU kernel."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
        features = work()
        if training:
            features.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("num_frames", [1, 4, 6])
@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_video_tower_against_torch(aggregator: str, num_frames: int, training: bool) -> None:
    """Catches a part counted twice or left out, one pass for T frame-wise ones, or dense attention for proxy-guided."""
    config, batch = tiny(aggregator), 2
    model, pixels = ClipVipModel(config), torch.zeros(batch, num_frames, 3, 36, 36)
    seen = counted(lambda: model.encode_video(pixels), training)
    assert batch * video_flops(config, num_frames, training=training) == seen
    of_batch, of_clip = (vision_layers(config, num_frames, size) for size in (batch, 1))
    assert [layers.flops for layers in of_batch] == [batch * layers.flops for layers in of_clip]


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("layers", [1, 3])
def test_text_tower_against_torch(layers: int, training: bool) -> None:
    """Catches a last block counted for all tokens, or the vision tower's widths in place of the text tower's."""
    config, ids = tiny("vip", layers), torch.full((2, 7), 19)
    model = ClipVipModel(config)
    seen = counted(lambda: model.encode_text(ids), training)
    assert 2 * text_flops(config, num_tokens=7, training=training) == seen


@pytest.mark.parametrize(("frame", "caption"), [(False, False), (True, False), (False, True), (True, True)])
def test_training_step_counts_its_sources(frame: bool, caption: bool) -> None:
    """Catches a source of the loss variant that is not counted, or one counted that the variant does not have."""
    config = tiny("vip")
    model, ids = ClipVipModel(config), torch.full((1, 7), 19)

    def step() -> Tensor:
        parts = [model.encode_video(torch.zeros(1, 4, 3, 36, 36)), model.encode_text(ids)]
        if frame:
            parts.append(model.encode_video(torch.zeros(1, 1, 3, 36, 36)))
        if caption:
            parts.append(model.encode_text(ids))
        return torch.cat(parts)

    seen = counted(step, training=True)
    assert training_flops(config, num_frames=4, num_tokens=7, frame=frame, caption=caption) == seen


@pytest.mark.parametrize(("patch", "forward", "training"), [(32, 97.5, 289.7), (16, 391.4, 1171.5)])
def test_published_sizes(patch: int, forward: float, training: float) -> None:
    """Catches a count that no longer gives the figures in docs: ViT-B, a clip of 12 frames, in GFLOP."""
    config = ClipVipConfig(vision_config={**VIT_B, "image_size": 224, "patch_size": patch})
    assert video_flops(config, 12) / 1e9 == pytest.approx(forward, rel=0.01)
    assert video_flops(config, 12, training=True) / 1e9 == pytest.approx(training, rel=0.01)


def test_proxy_guided_attention_is_cheaper_than_full() -> None:
    """Catches all pairs counted where a patch sees its own frame only; in one frame there is nothing to save."""
    vip, full = tiny("vip"), tiny("full")
    assert video_flops(vip, 4) < video_flops(full, 4)
    assert video_flops(vip, 1) == video_flops(full, 1)
