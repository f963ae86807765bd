"""The faster layers for training: the model's own gradients, adapters and hooks included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipvip.model import AGGREGATORS, ClipVipConfig, ClipVipModel, optimize_for_training
from clipvip.model.configuration_clipvip import FRAMEWISE
from clipvip.model.kernels import compile_blocks
from clipvip.model.kernels.training import FastAttention, FastMLP, FastPatchEmbedding, is_plain
from helpers_golden import golden_config, golden_state

IDS = torch.tensor([[98, 5, 7, 99], [98, 1, 99, 99], [98, 3, 4, 99]])


def golden_model(aggregator: str = "vip", scale: float = 1.0, **towers: str) -> ClipVipModel:
    settings = golden_config().to_dict() | {"aggregator": aggregator}
    if aggregator in FRAMEWISE:
        settings["num_proxies"] = 1
    for tower, act in towers.items():
        settings[tower]["hidden_act"] = act
    torch.manual_seed(0)
    model = ClipVipModel(ClipVipConfig(**settings))
    model.load_state_dict({name: scale * weight for name, weight in golden_state().items()}, strict=False)
    return model.train()


def gradients(model: nn.Module, dtype: torch.dtype = torch.float32, bfloat16: bool = False) -> dict[str, Tensor]:
    video = torch.randn(3, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        video_embeds, text_embeds = model.encode_video(video), model.encode_text(IDS)
    logits = 5 * video_embeds.to(dtype) @ text_embeds.to(dtype).T
    F.cross_entropy(logits, torch.arange(3)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_gradients_are_those_of_the_plain_model(aggregator: str, act: str) -> None:
    """Catches a fast layer with another result: all gradients in float64 equal those of the readable model."""
    model = golden_model(aggregator, text_config=act, vision_config=act).double()
    expected, state = gradients(model, torch.float64), model.state_dict()
    optimize_for_training(model)
    kinds = {type(module) for module in model.modules()}
    assert {FastAttention, FastMLP, FastPatchEmbedding} <= kinds
    assert model.state_dict().keys() == state.keys()
    found = gradients(model, torch.float64)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-11, rtol=1e-9, msg=name)


def test_bfloat16_training_follows_float32() -> None:
    """Catches a bfloat16 step that trains something else: every gradient must point where float32's does."""
    model = golden_model(scale=0.3)
    optimize_for_training(model)
    expected, found = gradients(model), gradients(model, bfloat16=True)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        if not name.endswith("k_proj.bias"):  # zero but for rounding: a shift of all keys changes no softmax
            cosine = torch.cosine_similarity(gradient.flatten(), expected[name].flatten(), dim=0)
            assert cosine > 0.97, f"{name}: {cosine}"


class Adapter(nn.Linear):
    """A layer with something added, as adapters put it in the place of a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.5 * super().forward(x)


LAYERS = [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")] + ["mlp.fc1", "mlp.fc2"]


@pytest.mark.parametrize("change", ["adapter", "hook"])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_adapters_and_hooks_work_in_the_fast_layers(name: str, change: str, bfloat16: bool) -> None:
    """Catches a layer whose weight is used although it is more than its weight, so that LoRA trains nothing."""

    def changed() -> ClipVipModel:
        model = golden_model(scale=0.5)
        for tower in (model.text_model, model.vision_model):
            block = tower.encoder.layers[0]
            parent, _, child = name.partition(".")
            layer = getattr(getattr(block, parent), child)
            if change == "hook":
                layer.register_forward_hook(lambda module, given, output: 1.5 * output)
            else:
                layer.__class__ = Adapter
            assert not is_plain(layer)
        return model

    plain, fast = changed(), changed()
    optimize_for_training(fast)
    expected, found = gradients(plain, bfloat16=bfloat16), gradients(fast, bfloat16=bfloat16)
    untouched = gradients(golden_model(scale=0.5))
    assert max(float((expected[key] - untouched[key]).abs().max()) for key in expected) > 1e-3
    for key, gradient in found.items():
        if bfloat16:
            if not key.endswith("k_proj.bias"):
                assert torch.cosine_similarity(gradient.flatten(), expected[key].flatten(), dim=0) > 0.97, key
        else:
            torch.testing.assert_close(gradient, expected[key], atol=1e-5, rtol=1e-4, msg=key)


def test_a_hook_on_the_patch_convolution_is_called() -> None:
    """Catches a patch embedding that is computed behind the back of its hooks."""
    calls: list[torch.Size] = []
    model = golden_model()
    optimize_for_training(model)

    def note(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(output.shape)

    model.vision_model.embeddings.patch_embedding.register_forward_hook(note)
    model.encode_video(torch.randn(2, 4, 3, 32, 32))
    assert len(calls) == 1


def test_a_block_compiles_as_one_graph() -> None:
    """Catches checks of layers that cut torch.compile's graph into pieces."""
    model = golden_model()
    optimize_for_training(model)
    block = model.vision_model.encoder.layers[0]
    x, attend = torch.randn(2, 9, 64), model.vision_model.attention
    compile_blocks()  # marks what the compiler is to take as constant
    compiled: Callable[..., Tensor] = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, attend), block(x, attend))
