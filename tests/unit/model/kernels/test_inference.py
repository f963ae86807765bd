"""`optimize_for_inference`: the same embeddings, no side effects, and no way to save or train fused weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.activations import ACT2FN

from clipvip.errors import UsageError
from clipvip.model import AGGREGATORS, ClipVipConfig, ClipVipModel
from clipvip.model.configuration_clipvip import ACTIVATIONS
from clipvip.model.kernels import inference
from clipvip.model.modeling_clipvip import ACTIVATION_FUNCTIONS
from helpers_golden import golden_config, golden_state


def golden_model(**options: object) -> ClipVipModel:
    """The golden sizes with weights large enough that mistakes show; the golden weights themselves without options."""
    if not options:
        model = ClipVipModel(golden_config())
        model.load_state_dict(golden_state())
        return model
    torch.manual_seed(0)
    sizes = golden_config()
    towers = {"text_config": sizes.text.to_dict(), "vision_config": sizes.vision.to_dict()}
    config = ClipVipConfig(**towers, projection_dim=32, num_frames=4, **options)
    model = ClipVipModel(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def embed(model: ClipVipModel, num_frames: int = 4) -> Tensor:
    """Embeddings of seeded videos and texts, [7, E]."""
    generator = torch.Generator().manual_seed(1)
    size = model.config.vision.image_size
    ids = torch.randint(1, 90, (4, 12), generator=generator)
    ids[:, -3:] = model.config.text.eos_token_id
    mask = torch.ones_like(ids)
    mask[:, -2:] = 0
    with torch.no_grad():
        video = model.encode_video(torch.randn(3, num_frames, 3, size, size, generator=generator))
        return torch.cat([video, model.encode_text(ids, mask)])


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed kernels whether or not they are faster on this CPU."""
    monkeypatch.setattr(inference, "prefers_onednn", lambda dtype: True)


@pytest.mark.parametrize("num_frames", [1, 4, 7])
@pytest.mark.parametrize("aggregator", AGGREGATORS)
@pytest.mark.parametrize("packed", [False, True])
def test_float32_is_the_same_to_rounding(
    aggregator: str, num_frames: int, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a fused weight in the wrong place, a lost bias or a kernel that rounds, for every aggregator and T."""
    monkeypatch.setattr(inference, "prefers_onednn", lambda dtype: packed)
    expected = embed(golden_model(aggregator=aggregator), num_frames)
    found = embed(golden_model(aggregator=aggregator).optimize_for_inference("float32"), num_frames)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_both_activations(hidden_act: str) -> None:
    """Catches quick GELU's factors folded into a GELU model."""

    def build() -> ClipVipModel:
        config = golden_config().to_dict()
        config["vision_config"]["hidden_act"] = config["text_config"]["hidden_act"] = hidden_act
        model = ClipVipModel(ClipVipConfig(**config))
        model.load_state_dict(golden_state())
        return model

    torch.testing.assert_close(embed(build().optimize_for_inference("float32")), embed(build()), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("onednn")
def test_bfloat16_at_clip_width() -> None:
    """Catches a residual stream or norm that is rounded, which doubles the videos' error at CLIP's width."""
    width = {"num_hidden_layers": 6, "num_attention_heads": 12}
    config = ClipVipConfig(
        text_config={"num_hidden_layers": 6, "vocab_size": 100, "eos_token_id": 99},
        vision_config={**width, "image_size": 64, "patch_size": 16},
        num_frames=4,
    )

    def build() -> ClipVipModel:
        torch.manual_seed(0)
        return ClipVipModel(config)

    expected, found = embed(build()), embed(build().optimize_for_inference("bfloat16"))
    assert found.dtype == torch.float32
    difference = found - expected
    assert difference.abs().max() < 2e-3
    assert difference[:3].square().mean().sqrt() < 1.6e-4  # 1.1e-4, of which 0.6e-4 are the rounded weights'
    assert torch.cosine_similarity(found, expected).min() > 0.9999


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_bfloat16_of_tiny_models(aggregator: str) -> None:
    """Catches bfloat16 that fails for an aggregator; a small E only allows for the cosine."""
    expected = embed(golden_model(aggregator=aggregator))
    found = embed(golden_model(aggregator=aggregator).optimize_for_inference("bfloat16"))
    assert torch.cosine_similarity(found, expected).min() > 0.999
    torch.testing.assert_close(found.norm(dim=1), torch.ones(7), atol=1e-6, rtol=0)


def test_auto_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches bfloat16 on a CPU that only emulates it, slower than float32."""
    rates = {"float32": 100.0, "float32 onednn": 100.0, "bfloat16": 20.0, "bfloat16 onednn": 20.0}
    monkeypatch.setattr(inference, "matmul_speed", lambda threads: rates)
    assert golden_model().optimize_for_inference().optimized_for == torch.float32
    assert not inference.prefers_onednn(torch.float32)
    rates |= {"float32 onednn": 210.0, "bfloat16": 400.0}
    assert golden_model().optimize_for_inference().optimized_for == torch.bfloat16
    assert inference.prefers_onednn(torch.float32)


def test_matmul_speed_measures() -> None:
    """Catches a measurement that never runs its kernels."""
    rates = inference.matmul_speed(torch.get_num_threads())
    assert rates["float32"] > 0
    assert rates["bfloat16"] > 0


@pytest.mark.usefixtures("onednn")
def test_a_kernel_that_rounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches trust in a kernel that computes float32 in bfloat16, as oneDNN may on a CPU with AMX."""
    calls = []

    def rounding(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        calls.append(weight.shape)
        return lambda x: F.linear(x.bfloat16(), weight.bfloat16()).float() + (0 if bias is None else bias)

    monkeypatch.setattr(inference, "_packed", rounding)
    expected = embed(golden_model())
    torch.testing.assert_close(embed(golden_model().optimize_for_inference("float32")), expected, atol=1e-5, rtol=0)
    assert calls


@pytest.mark.parametrize(("inputs", "outputs"), [(96, 40), (64, 320), (700, 300)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("sliced", [False, True])
def test_packed_layers_equal_linear(
    inputs: int, outputs: int, with_bias: bool, sliced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches slices of outputs glued together wrongly; 700 -> 300 is cut in two where threads share badly."""
    monkeypatch.setattr(inference, "shares_badly", lambda: sliced)
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, inputs), torch.randn(outputs, inputs)
    bias = torch.randn(outputs) if with_bias else None
    layer = inference.dense(weight, bias, torch.float32, onednn=True)
    torch.testing.assert_close(layer(x), F.linear(x, weight, bias), atol=1e-4, rtol=1e-5)


def test_global_settings_stay() -> None:
    """Catches a process-wide switch left behind (or set at all) for the sake of one model."""

    def settings() -> tuple[object, ...]:
        return (
            torch.backends.mkldnn.matmul.fp32_precision,
            torch.get_float32_matmul_precision(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.random.get_rng_state().sum().item(),
        )

    model = golden_model()
    before = settings()
    model.optimize_for_inference("bfloat16")
    embed(model)
    assert settings() == before


def test_optimised_models_are_for_inference_only(tmp_path: Path) -> None:
    """Catches a folder of fused weights that nothing can load, and training of frozen copies."""
    model = golden_model().optimize_for_inference("float32")
    assert not model.training
    model.eval()
    for forbidden in (
        model.train,
        model.state_dict,
        lambda: model.save_pretrained(tmp_path / "m"),
        lambda: model.to(torch.float64),
        model.optimize_for_inference,
    ):
        with pytest.raises(UsageError, match="optimised for inference"):
            forbidden()
    assert not (tmp_path / "m").exists()
    with pytest.raises(UsageError, match="dtype='float16': choose auto, float32 or bfloat16"):
        golden_model().optimize_for_inference("float16")


PLACES = [
    "text_model.encoder.layers.1",
    "vision_model.encoder.layers.0.self_attn",
    "vision_model.encoder.layers.0.self_attn.k_proj",
    "vision_model.encoder.layers.0.mlp",
    "vision_model.embeddings.patch_embedding",
]


@pytest.mark.parametrize("place", PLACES)
def test_hooks_that_would_be_lost_are_refused(place: str) -> None:
    """Catches a fused layer that does not call what was hooked to the layers that it replaces."""
    model = golden_model()
    handle = model.get_submodule(place).register_forward_hook(lambda module, given, output: 2 * output)
    with pytest.raises(UsageError, match=rf"^{place} has hooks"):
        model.optimize_for_inference()
    handle.remove()
    model.vision_model.encoder.layers[0].layer_norm1.register_forward_hook(lambda module, given, output: 2 * output)
    expected = embed(model)
    torch.testing.assert_close(embed(model.optimize_for_inference("float32")), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("place", "number"), [("dense", 15), ("prefers_onednn", 0)])
def test_a_failure_half_way_leaves_the_model_as_it_was(
    place: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a half fused model that may be trained and saved: memory ran out at the second tower, or before."""
    model, expected = golden_model().train(), embed(golden_model())
    model.text_model.eval()
    model.logit_scale.requires_grad_(False)
    plain, calls = getattr(inference, place), []

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > number:
            raise MemoryError
        return plain(*arguments)

    monkeypatch.setattr(inference, place, failing)
    with pytest.raises(MemoryError):
        model.optimize_for_inference("float32")
    assert (model.training, model.text_model.training, model.vision_model.training) == (True, False, True)
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["logit_scale"]
    model.state_dict()
    assert torch.equal(embed(model), expected)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_transformers(name: str) -> None:
    """Catches a name that stands for another function than in the library whose files have it."""
    x = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(ACTIVATION_FUNCTIONS[name](x), ACT2FN[name](x), atol=1e-5, rtol=1e-5)
