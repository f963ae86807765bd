"""The transformer block all towers share, with CLIP's parameter names.

Shapes: B batch, N tokens, Q queries, D width, H heads, d = D / H.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPVisionConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from clipvip.model.products import in_autocast_dtype, joined_linears, linear, prefers_joined

QUICK_GELU = 1.702
TowerConfig: TypeAlias = CLIPTextConfig | CLIPVisionConfig
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q [B, Q, H, d], k [B, N, H, d], v [B, N, H, d]) -> [B, Q, H, d]: who sees whom is the tower's business."""


class Linear(nn.Linear):
    """torch's, computed by `products.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., O]."""
        return linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """Query, key, value and output projections around an attention function."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.q_proj = Linear(config.hidden_size, config.hidden_size)
        self.k_proj = Linear(config.hidden_size, config.hidden_size)
        self.v_proj = Linear(config.hidden_size, config.hidden_size)
        self.out_proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, query: Tensor, x: Tensor, attend: Attend) -> Tensor:
        """Queries from `query` [B, Q, D], keys and values from x [B, N, D] -> [B, Q, D]."""
        heads = (self.num_heads, -1)
        layers = (self.q_proj, self.k_proj, self.v_proj)
        projected: tuple[Tensor, ...]
        if query is x and prefers_joined(x) and all(type(layer) is Linear for layer in layers):  # no adapter in between
            projected = joined_linears(x, *((layer.weight, layer.bias) for layer in layers))
        else:
            projected = self.q_proj(query), self.k_proj(x), self.v_proj(x)
        q, k, v = (y.unflatten(-1, heads) for y in projected)
        return self.out_proj(attend(q, k, v).flatten(2))


class MLP(nn.Module):
    """Two linear layers with the configured activation between.

    CLIP's quick GELU, h * sigmoid(a h) with a = 1.702, is silu(a h) / a: with the factors moved into the matrix
    products, the (large) activations see one fused operation instead of three.
    """

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.config = config
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)
        self.activation_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        if self.config.hidden_act != "quick_gelu":
            return self.fc2(self.activation_fn(self.fc1(x)))
        h = linear(x, self.fc1.weight, QUICK_GELU * self.fc1.bias, QUICK_GELU)
        h = F.silu(h, inplace=not torch.is_grad_enabled())
        return linear(h, self.fc2.weight, self.fc2.bias, 1 / QUICK_GELU)


class Block(GradientCheckpointingLayer):
    """Pre-norm transformer block; `activation_checkpointing_enable` of the model makes it forget its activations."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, attend: Attend, query: Tensor | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]; with `query` [B, Q, D], the tokens whose output is wanted, only theirs [B, Q, D].

        In the last block most outputs feed nothing: all tokens still serve as keys and values there, but need no
        query and no MLP. Same output, same gradients.
        """
        keys = in_autocast_dtype(self.layer_norm1(x))
        if query is None:
            query, normed = x, keys
        else:
            normed = self.layer_norm1(query)
        query = query + self.self_attn(normed, keys, attend)
        return query + self.mlp(self.layer_norm2(query))


class Encoder(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))


def init_block_weights(module: Attention | MLP, factor: float, normal: Callable[..., object]) -> None:
    """CLIP's start: weights narrow with width and depth. `normal(tensor, std=...)` fills a tensor."""
    config = module.config
    width_std = config.hidden_size**-0.5
    residual_std = width_std * (2 * config.num_hidden_layers) ** -0.5
    if isinstance(module, Attention):
        for projection in (module.q_proj, module.k_proj, module.v_proj):
            normal(projection.weight, std=residual_std * factor)
        normal(module.out_proj.weight, std=width_std * factor)
    else:
        normal(module.fc1.weight, std=(2 * config.hidden_size) ** -0.5 * factor)
        normal(module.fc2.weight, std=residual_std * factor)
