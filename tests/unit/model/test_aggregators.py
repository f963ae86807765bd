"""The `transformer` and `full` aggregators against independent references, and activation checkpointing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from clipvip.errors import CheckpointError, ConfigError
from clipvip.model import AGGREGATORS, ClipVipConfig, ClipVipModel
from clipvip.model.configuration_clipvip import FRAMEWISE
from helpers_golden import golden_config

TOWER = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 5, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP whose text tower is as wide as the shared space, as in all public models."""
    torch.manual_seed(0)
    text = {**TOWER, "vocab_size": 100, "eos_token_id": 99}
    vision = {**TOWER, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))
    for parameter in clip.parameters():
        nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("clip")
    clip.save_pretrained(folder)
    return folder


def pixels(*shape: int) -> Tensor:
    return torch.randn(*shape, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def reference_block(x: Tensor, weights: dict[str, Tensor], heads: int) -> Tensor:
    """A pre-norm residual attention block with quick GELU, written on torch's own multi-head attention."""

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    fused = {
        part: torch.cat([weights[f"self_attn.{name}_proj.{part}"] for name in "qkv"]) for part in ("weight", "bias")
    }
    normed = norm("layer_norm1", x).transpose(0, 1)  # [T, B, E], as that function wants it
    attended, _ = F.multi_head_attention_forward(
        normed, normed, normed, x.shape[-1], heads, fused["weight"], fused["bias"], None, None, False, 0.0,
        weights["self_attn.out_proj.weight"], weights["self_attn.out_proj.bias"], training=False, need_weights=False,
    )  # fmt: skip
    x = x + attended.transpose(0, 1)
    h = F.linear(norm("layer_norm2", x), weights["mlp.fc1.weight"], weights["mlp.fc1.bias"])
    return x + F.linear(h * torch.sigmoid(1.702 * h), weights["mlp.fc2.weight"], weights["mlp.fc2.bias"])


def test_transformer_equals_the_published_recipe(clip_folder: Path) -> None:
    """Catches a missing position, residual or norm: CLIP4Clip's seqTransf on CLIP's own frame features."""
    model = ClipVipModel.from_clip(clip_folder, aggregator="transformer", num_frames=6, num_temporal_layers=3)
    video = pixels(2, 6)
    with torch.no_grad():
        clip = CLIPModel.from_pretrained(clip_folder)
        frames = clip.get_image_features(video.flatten(0, 1)).pooler_output.unflatten(0, (2, 6))
        temporal = model.temporal_transformer
        assert temporal is not None
        x = frames + temporal.temporal_embedding
        for layer in temporal.encoder.layers:
            x = reference_block(x, layer.state_dict(), heads=4)
        expected = F.normalize(F.normalize(frames + x, dim=-1).mean(1), dim=-1)
        torch.testing.assert_close(model.encode_video(video), expected, atol=2e-5, rtol=0)
        assert (model.encode_video(video.flip(1)) - expected).abs().max() > 1e-4, "blind to order"


def test_transformer_starts_from_the_text_tower(clip_folder: Path, tmp_path: Path) -> None:
    """Catches a random start where CLIP4Clip copies CLIP's text layers, and a head lost in saving."""
    model = ClipVipModel.from_clip(clip_folder, aggregator="transformer", num_frames=6)
    state = model.state_dict()
    for i in range(4):
        name = f"encoder.layers.{i}.mlp.fc1.weight"
        assert torch.equal(state[f"temporal_transformer.{name}"], state[f"text_model.{name}"])
    positions = state["text_model.embeddings.position_embedding.weight"]
    assert torch.equal(state["temporal_transformer.temporal_embedding"], positions[:6])
    model.save_pretrained(tmp_path)
    video = pixels(1, 9)  # another number of frames: positions are interpolated
    with torch.no_grad():
        again = ClipVipModel.from_pretrained(tmp_path).eval().encode_video(video)
        assert torch.equal(again, model.eval().encode_video(video))


def test_transformer_whose_text_tower_does_not_fit_starts_at_random_and_finite() -> None:
    """Catches uninitialised memory where nothing can be copied."""
    torch.manual_seed(0)
    config = golden_config().to_dict() | {"aggregator": "transformer", "num_proxies": 1}
    first = ClipVipModel(ClipVipConfig(**config)).state_dict()
    torch.manual_seed(0)
    again = ClipVipModel(ClipVipConfig(**config)).state_dict()
    new = [name for name in first if name.startswith("temporal_transformer")]
    assert len(new) == 1 + 4 * 16
    assert all(torch.isfinite(first[name]).all() and torch.equal(first[name], again[name]) for name in new)
    assert all(first[name].any() for name in new if name.endswith("weight"))


def test_transformer_on_weights_of_another_width_starts_at_random_and_finite(clip_folder: Path) -> None:
    """Catches uninitialised memory in the new blocks of a model that starts from weights (fewer layers: no copy)."""
    options = {"aggregator": "transformer", "num_frames": 6, "num_temporal_layers": 6}

    def start() -> dict[str, Tensor]:
        torch.manual_seed(0)
        state = ClipVipModel.from_clip(clip_folder, **options).state_dict()
        return {name: value for name, value in state.items() if name.startswith("temporal_transformer")}

    first, again = start(), start()
    assert len(first) == 1 + 6 * 16
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
        width = 32 if "fc2" not in name else 128
        if name.endswith("proj.weight") or "fc" in name:
            assert value.abs().max() < 6 * width**-0.5, name  # a start at CLIP's scale, not whatever memory held


def test_full_lets_every_token_see_every_token(clip_folder: Path) -> None:
    """Catches a mask left in `full`: blocks of transformers' CLIP over all tokens, without any mask, are the oracle."""
    from transformers.models.clip.modeling_clip import CLIPEncoder

    torch.manual_seed(0)
    model = ClipVipModel.from_clip(clip_folder, aggregator="full", num_frames=4, num_proxies=3, proxy_init="normal")
    vision = model.vision_model
    nn.init.normal_(vision.embeddings.temporal_embedding)
    encoder = CLIPEncoder(model.config.vision)
    encoder.load_state_dict(vision.encoder.state_dict())
    video = pixels(2, 4)
    with torch.no_grad():
        tokens = vision.pre_layrnorm(vision.embeddings(video))
        assert tokens.shape[1] == 3 + 4 * 16
        states = encoder(inputs_embeds=tokens, attention_mask=None).last_hidden_state
        expected = F.normalize(model.visual_projection(vision.post_layernorm(states[:, 0])), dim=-1)
        torch.testing.assert_close(model.encode_video(video), expected, atol=2e-5, rtol=0)
        guided = ClipVipModel.from_clip(clip_folder, aggregator="vip", num_frames=4, num_proxies=3)
        guided.load_state_dict(model.state_dict())
        assert (guided.encode_video(video) - expected).abs().max() > 1e-3, "the mask makes no difference?"


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_checkpointed_gradients_are_the_same(aggregator: str, reentrant: bool) -> None:
    """Catches activation checkpointing that loses the last block's query or an attention pattern."""
    config = golden_config().to_dict() | {"aggregator": aggregator}
    if aggregator in FRAMEWISE:
        config["num_proxies"] = 1
    torch.manual_seed(0)
    model = ClipVipModel(ClipVipConfig(**config)).double().train()
    video, ids = pixels(2, 4).double(), torch.tensor([[98, 5, 99], [98, 99, 99]])

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        (model.encode_video(video) * model.encode_text(ids)).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    assert all(layer.gradient_checkpointing for layer in model.vision_model.encoder.layers)
    again = gradients()
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)


def test_settings_that_contradict_each_other() -> None:
    """Catches proxies silently ignored by a frame-wise aggregator, and heads that do not divide."""
    with pytest.raises(ConfigError, match="aggregator='seqTransf': choose one of vip, mean, transformer, full"):
        ClipVipConfig(aggregator="seqTransf")
    with pytest.raises(ConfigError, match="num_proxies=4 with aggregator='transformer'"):
        ClipVipConfig(aggregator="transformer", num_proxies=4)
    with pytest.raises(ConfigError, match="num_temporal_layers=0"):
        ClipVipConfig(aggregator="transformer", num_temporal_layers=0)
    with pytest.raises(ConfigError, match="projection_dim=500 with aggregator='transformer'"):
        ClipVipConfig(aggregator="transformer", projection_dim=500)
    assert ClipVipConfig(aggregator="full").num_proxies == 4
    assert ClipVipConfig(aggregator="transformer").num_proxies == 1


def test_an_override_at_loading_is_checked(clip_folder: Path, tmp_path: Path) -> None:
    """Catches a model that encodes with settings which it then cannot save."""
    ClipVipModel.from_clip(clip_folder, num_proxies=3).save_pretrained(tmp_path)
    for override, message in (("mean", "num_proxies=3 with aggregator='mean'"), ("bogus", "aggregator='bogus'")):
        with pytest.raises(ConfigError, match=message):
            ClipVipModel.from_pretrained(tmp_path, aggregator=override)


def test_weights_of_one_aggregator_in_another(clip_folder: Path, tmp_path: Path) -> None:
    """Catches a temporal head dropped without a word when its folder starts another aggregator."""
    ClipVipModel.from_clip(clip_folder, aggregator="transformer").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"left over \(temporal_transformer"):
        ClipVipModel.from_clip(tmp_path, aggregator="vip")
