"""Faster layers for training, above all in bfloat16 on CPUs: same parameters, same gradients, another order of sums.

Layers are computed from their weights where they are plain `nn.Linear`s, and called where they are something else (an
adapter) or have hooks.

Shapes: B batch, N tokens, Q queries, D width, H heads, d = D / H, F frames, L patches per frame.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipvip.model.kernels.products import (
    attention,
    in_autocast_dtype,
    joined_linears,
    linear,
    shares_badly,
    trains_in_bfloat16_on_a_cpu,
)
from clipvip.model.modeling_clipvip import MLP, Attend, Attention, Block, ClipVipCore

QUICK_GELU = 1.702


def optimize_for_training(model: ClipVipCore) -> None:
    """Use the faster layers in a model, in place; parameters and their names stay the same."""
    use_fast_layers(model)
    _become(model.vision_model.embeddings.patch_embedding, nn.Conv2d, FastPatchEmbedding)


def compile_blocks(*towers: nn.Module) -> None:
    """torch.compile each block, in place. Its first call for each shape of inputs takes some seconds."""
    torch.compiler.assume_constant_result(shares_badly)  # not a decorator: it imports the compiler, which takes 1.5 s
    for tower in towers:
        for module in tower.modules():
            if isinstance(module, Block):
                module.compile()


def use_fast_layers(model: ClipVipCore) -> None:
    """Have all blocks compute with the faster attention and MLP, in place."""
    for part in (model.text_model, model.vision_model, model.temporal_transformer):
        if part is not None:
            part.attention = attention
    for module in model.modules():
        if isinstance(module, Block):
            _become(module.self_attn, Attention, FastAttention)
            _become(module.mlp, MLP, FastMLP)


def _become(module: nn.Module, plain: type[nn.Module], fast: type[nn.Module]) -> None:
    """Give a module another forward method; one of another class, such as an adapter, stays as it is."""
    if type(module) is plain:
        module.__class__ = fast


class FastAttention(Attention):
    """`Attention` whose query, key and value projections are one product where that is faster."""

    def forward(self, query: Tensor, x: Tensor, attend: Attend) -> Tensor:
        """Queries from `query` [B, Q, D], keys and values from x [B, N, D] -> [B, Q, D]."""
        layers = (self.q_proj, self.k_proj, self.v_proj)
        projected: tuple[Tensor, ...]
        if query is x:
            query = x = in_autocast_dtype(x)  # once, not once per projection
            if trains_in_bfloat16_on_a_cpu(x) and all(is_plain(layer) for layer in layers):
                projected = joined_linears(x, *((layer.weight, layer.bias) for layer in layers))
            else:
                projected = tuple(apply_linear(layer, x) for layer in layers)
        else:
            x = in_autocast_dtype(x)
            projected = tuple(apply_linear(layer, y) for layer, y in zip(layers, (query, x, x), strict=True))
        q, k, v = (y.unflatten(-1, (self.num_heads, -1)) for y in projected)  # [B, Q or N, H, d]
        return apply_linear(self.out_proj, attend(q, k, v).flatten(2))


class FastMLP(MLP):
    """`MLP` whose quick GELU is one operation on the (large) hidden activations instead of three.

    h * sigmoid(a h) with a = 1.702 is silu(a h) / a, and both factors of a can be moved into the matrix products.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        if self.hidden_act != "quick_gelu" or not (is_plain(self.fc1) and is_plain(self.fc2)):
            return super().forward(x)
        h = linear(x, self.fc1.weight, QUICK_GELU * self.fc1.bias, QUICK_GELU)
        h = F.silu(h, inplace=not torch.is_grad_enabled())
        return linear(h, self.fc2.weight, self.fc2.bias, 1 / QUICK_GELU)


class FastPatchEmbedding(nn.Conv2d):
    """A convolution whose stride is its kernel size, as one matrix product."""

    def forward(self, frames: Tensor) -> Tensor:
        """[F, 3, height, width] -> [F, D, h, w]."""
        if has_hooks(self):
            return super().forward(frames)
        patches = linear(cut_patches(frames, self.kernel_size[0]), self.weight.flatten(1), None)
        return to_grid(patches)


def cut_patches(frames: Tensor, size: int) -> Tensor:
    """Frames to patches of pixels, [F, 3, height, width] -> [F, L, 3*size*size]."""
    grid = frames.unflatten(-1, (-1, size)).unflatten(-3, (-1, size))  # [F, 3, h, size, w, size]
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def to_grid(patches: Tensor) -> Tensor:
    """Square grids of patches, [F, L, D] -> [F, D, h, w] as a convolution returns them; no copy."""
    side = round(patches.shape[1] ** 0.5)
    return patches.transpose(1, 2).unflatten(2, (side, side))


def apply_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """[..., K] -> [..., O]."""
    return linear(x, layer.weight, layer.bias) if is_plain(layer) else layer(x)


def is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer can be computed from its weights: torch's own `nn.Linear` without hooks."""
    return type(layer) is nn.Linear and not has_hooks(layer)


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module does more than its forward method."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
