"""What the benchmarks compare: the model in its sizes, and other ways to compute the same or a like thing.

Shapes: B batch, T frames, L patches a frame, M proxies, N = M + T*L tokens, D width, H heads, d = D / H, E embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import CLIPTextModel, CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.modeling_clip import CLIPEncoder

from clipvip.model import ClipVipConfig, ClipVipModel, kernels, optimize_for_training
from clipvip.model.modeling_clipvip import attention

VIT_B = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
         "image_size": 224}  # fmt: skip
TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
        "vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407}  # fmt: skip
DEMO = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4}
SIZES: dict[str, dict[str, Any]] = {
    "b32": {"vision_config": {**VIT_B, "patch_size": 32}, "text_config": TEXT, "num_frames": 12},
    "b16": {"vision_config": {**VIT_B, "patch_size": 16}, "text_config": TEXT, "num_frames": 12},
    "small": {  # the demo's, with room for longer texts
        "vision_config": {**DEMO, "num_hidden_layers": 3, "image_size": 48, "patch_size": 12},
        "text_config": {**DEMO, "num_hidden_layers": 2, "vocab_size": 1400, "bos_token_id": 1398, "eos_token_id": 1399},
        "num_frames": 4,
        "projection_dim": 64,
    },
}
"""Arguments of ClipVipConfig: ViT-B/32 and ViT-B/16 as the paper trains them, and the model of `clipvip demo`."""


def config_of(size: str, num_frames: int | None = None) -> ClipVipConfig:
    """The configuration of a size, for another number of frames if given."""
    return ClipVipConfig(**copy.deepcopy(SIZES[size]) | ({"num_frames": num_frames} if num_frames else {}))


def build(config: ClipVipConfig, device: torch.device | str = "cpu") -> ClipVipModel:
    """A model with seeded random weights, the ones that start at zero (biases, temporal positions) included."""
    torch.manual_seed(0)
    model = ClipVipModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return model.to(device)


def random_pixels(config: ClipVipConfig, batch: int, device: torch.device | str) -> Tensor:
    """Seeded pixel values, [B, T, 3, H, W]."""
    size = config.vision.image_size
    return torch.randn(batch, config.num_frames, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)


def clip_vision(config: ClipVipConfig, device: torch.device | str) -> CLIPVisionModel:
    """transformers' image tower of the same sizes (random weights): what a video costs without modelling it."""
    return CLIPVisionModel(CLIPVisionConfig(**config.vision_config.to_dict())).eval().to(device)


def sees(query: Tensor, key: Tensor, num_proxies: int, num_patches: int) -> Tensor:
    """Proxy-guided attention as a rule on token indices: proxies see and are seen by all, patches keep to their frame.

    Source: CLIP-ViP section 4.2, figure 2.
    """
    same_frame = (query - num_proxies) // num_patches == (key - num_proxies) // num_patches
    return (query < num_proxies) | (key < num_proxies) | same_frame


def shape_of(config: ClipVipConfig) -> tuple[int, int, int]:
    """(M, L, N) of a model."""
    num_proxies, num_patches = 1 + config.num_added_proxies, (config.vision.image_size // config.vision.patch_size) ** 2
    return num_proxies, num_patches, num_proxies + config.num_frames * num_patches


class DenseMask(nn.Module):
    """The same model the usual way: transformers' own CLIP layers over all tokens, with a dense [N, N] mask.

    Nothing is left out in the last block. The weights are the model's own, not copies.
    """

    mask: Tensor

    def __init__(self, model: ClipVipModel):
        super().__init__()
        tower, config = model.vision_model, copy.deepcopy(model.config.vision)
        config._attn_implementation = "sdpa"
        self.embeddings, self.pre_layrnorm = tower.embeddings, tower.pre_layrnorm
        self.post_layernorm, self.projection = tower.post_layernorm, model.visual_projection
        with torch.device("meta"):
            self.encoder = CLIPEncoder(config)
        self.encoder.load_state_dict(tower.encoder.state_dict(), assign=True)
        num_proxies, num_patches, num_tokens = shape_of(model.config)
        index = torch.arange(num_tokens, device=model.device)
        mask = sees(index[:, None], index[None], num_proxies, num_patches)
        self.register_buffer("mask", mask[None, None])  # [1, 1, N, N]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, E], of unit norm."""
        x = self.pre_layrnorm(self.embeddings(pixel_values))
        x = self.encoder(x, attention_mask=self.mask).last_hidden_state
        return F.normalize(self.projection(self.post_layernorm(x[:, 0])), dim=-1)


class FlexTower(nn.Module):
    """The model's own layers, compiled, with `flex_attention` and a block mask in place of the decomposed attention.

    The last block is pruned as the model does it. The model's blocks are compiled in place: give it a copy.
    """

    def __init__(self, model: ClipVipModel):
        super().__init__()
        self.tower, self.projection = model.vision_model, model.visual_projection
        num_proxies, num_patches, num_tokens = shape_of(model.config)

        def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return sees(query, key, num_proxies, num_patches)

        block_mask = create_block_mask(rule, None, None, num_tokens, num_tokens, device=str(model.device))

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # an `Attend`, [B, N, H, d]; views fail on the CPU
            q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
            return flex_attention(q, k, v, block_mask=block_mask).transpose(1, 2)

        self.attend = attend
        compile_blocks(model)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, E], of unit norm."""
        *layers, last = self.tower.encoder.layers
        x = self.tower.pre_layrnorm(self.tower.embeddings(pixel_values))
        for layer in layers:
            x = layer(x, self.attend)
        x = last(x, attention, query=x[:, :1])
        return F.normalize(self.projection(self.tower.post_layernorm(x[:, 0])).float(), dim=-1)


def compile_blocks(model: ClipVipModel) -> ClipVipModel:
    """Have each block of the vision tower compiled, in place; returns the model. Falling back to eager is an error."""
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    kernels.compile_blocks(model.vision_model)
    return model


def clip_text(model: ClipVipModel) -> Callable[[Tensor, Tensor], Tensor]:
    """transformers' text tower with the model's weights, and its projection: (ids, mask) [N, S] -> [N, E]."""
    peer = CLIPTextModel(copy.deepcopy(model.config.text)).eval().to(model.device)
    peer.load_state_dict(model.text_model.state_dict(), strict=True)

    def encode(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        pooled = peer(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return F.normalize(model.text_projection(pooled), dim=-1)

    return encode


@dataclass(frozen=True)
class Training:
    """One way to run a training step (forward and backward) of the vision tower. tower: "clip", "dense" or "vip"."""

    tower: str
    bf16: bool = False
    checkpointing: bool = False
    compiled: bool = False


def training_step(form: Training, model: ClipVipModel, pixels: Tensor) -> Callable[[], None]:
    """What to call for one training step; it leaves its gradients standing.

    The loss is a fixed random direction's product with the features: a norm of unit or layer-normed features would be
    constant, and its gradients zeros or denormal numbers.
    """
    if form.tower == "vip":
        model = copy.deepcopy(model)
        optimize_for_training(model)
    if form.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if form.compiled:
        compile_blocks(model)
    trained: nn.Module
    if form.tower == "clip":
        trained = clip_vision(model.config, pixels.device)
        forward = lambda: trained(pixel_values=pixels.flatten(0, 1)).pooler_output  # noqa: E731
    elif form.tower == "dense":
        trained = DenseMask(model)
        forward = lambda: trained(pixels)  # noqa: E731
    else:
        trained = model
        forward = lambda: model.encode_video(pixels)  # noqa: E731
    trained.train()
    direction = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0)).to(pixels.device).flatten()

    def step() -> None:
        trained.zero_grad(set_to_none=True)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=form.bf16):
            features = forward().flatten()
            loss = (features * direction[: len(features)]).sum()
        loss.backward()

    return step
