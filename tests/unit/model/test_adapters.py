"""LoRA adapters of peft on any linear layer, as on transformers' CLIP."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from clipvip.errors import UsageError
from clipvip.model import ClipVipModel, optimize_for_inference, optimize_for_training
from helpers_golden import golden_config

LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "visual_projection", "text_projection"]
IDS = torch.tensor([[98, 5, 7, 99, 99], [98, 1, 2, 3, 99], [98, 4, 4, 4, 99]])


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ours = golden_config()
    torch.manual_seed(0)
    towers = {name: getattr(ours, name).to_dict() for name in ("text_config", "vision_config")}
    clip = CLIPModel(CLIPConfig(**towers, projection_dim=32))
    for parameter in clip.parameters():
        nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("clip")
    clip.save_pretrained(folder)
    return folder


def with_lora(model: nn.Module, layer: str) -> PeftModel:
    """An adapter with seeded weights, so that it has an effect from the start."""
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=[layer], lora_alpha=8))
    own = sorted((name, parameter) for name, parameter in adapted.named_parameters() if "lora_" in name)
    for number, (_, parameter) in enumerate(own):
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return adapted


def trained(features: list[Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The gradients of the adapter."""
    direction = torch.randn(3, 32, generator=torch.Generator().manual_seed(9))
    sum((each * direction).sum() for each in features).backward()  # type: ignore[union-attr]
    return {name: p.grad for name, p in model.named_parameters() if "lora_" in name and p.grad is not None}


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_lora_is_that_of_transformers_clip(layer: str, fast: bool, clip_folder: Path) -> None:
    """Catches layers that are computed from their weights alone, so that an adapter does nothing and learns nothing."""
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    theirs = with_lora(CLIPModel.from_pretrained(clip_folder), layer)
    expected = [theirs.get_image_features(images).pooler_output, theirs.get_text_features(IDS).pooler_output]
    plain = ClipVipModel.from_clip(clip_folder, num_proxies=1)
    if fast:
        optimize_for_training(plain)
    ours = with_lora(plain, layer)
    found = [ours.get_image_features(images), ours.get_text_features(IDS)]
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    gradients = trained(found, ours)
    assert gradients
    for name, gradient in trained(expected, theirs).items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize("layer", LAYERS[:6])
def test_unmerged_adapters_are_refused_for_inference(layer: str, clip_folder: Path) -> None:
    """Catches an optimised model from which the adapter is gone, or one that is left half optimised."""
    adapted = with_lora(ClipVipModel.from_clip(clip_folder, num_proxies=1), layer)
    model = adapted.get_base_model()
    with pytest.raises(UsageError, match=rf"layers\.0\.\S+{layer} is a peft\S+Linear, .*merge_and_unload"):
        optimize_for_inference(model)
    before = model.eval().encode_text(IDS)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged.encode_text(IDS), before, atol=1e-4, rtol=1e-4)
    merged.optimize_for_inference("float32")
    torch.testing.assert_close(merged.encode_text(IDS), before, atol=1e-4, rtol=1e-4)
