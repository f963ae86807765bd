"""Linear layers and attention where torch's own are slow: in bfloat16 on CPUs. Elsewhere they are torch's own.

Seen with torch 2.13: SDPA takes twice as long for a few queries as the same thing written as matrix products, and its
backward pass several times as long. With AMX, oneDNN takes twice as long for a weight gradient whose transposed factor
is the wider one, and shares a product with few outputs badly among threads.

Shapes: R rows, K inputs, O outputs, B batch, N tokens, Q queries, H heads, d head width.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from clipvip.errors import ClipVipWarning

SLICE = 256
"""Outputs a slice of a product that threads should share."""
FEW_QUERIES = 256
"""Up to here bfloat16 attention is faster with all scores written down; for more they would take too much memory."""
CACHEFUL = 2**19
"""Scores that a core's cache holds in float32."""


def in_autocast_dtype(x: Tensor) -> Tensor:
    """What autocast would make of `x` for each product that reads it: cast here, it is cast once."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: float = 1.0) -> Tensor:
    """scale * x W^T + bias: x [..., K], weight [O, K], bias [O] -> [..., O]."""
    x = in_autocast_dtype(x)
    if trains_in_bfloat16_on_a_cpu(x):
        return _Linear.apply(x.flatten(0, -2), weight, bias, scale).unflatten(0, x.shape[:-1])
    if scale == 1.0 or bias is None or torch.is_grad_enabled():  # scaling the (small) weight has the cheapest gradient
        return F.linear(x, weight if scale == 1.0 else scale * weight, bias)
    product = torch.addmm(bias, x.flatten(0, -2), in_autocast_dtype(weight).T, alpha=scale)
    return product.unflatten(0, x.shape[:-1])


def joined_linears(x: Tensor, *layers: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Linear layers of one input, (weight [O, K], bias [O]) of equal sizes, as one: x [..., K] -> one [..., O] each.

    Better than the layers one by one where `trains_in_bfloat16_on_a_cpu(x)`: threads share many outputs better.
    """
    weights, biases = zip(*layers, strict=True)
    joined = linear(x, torch.cat([weight.to(x.dtype) for weight in weights]), torch.cat(biases))
    return joined.chunk(len(layers), -1)


def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Scaled dot-product attention: every query attends to every key, unless a mask forbids it.

    The same as `modeling_clipvip.attention`, arguments and all.
    """
    if trains_in_bfloat16_on_a_cpu(q) or (_is_bfloat16_on_a_cpu(q) and q.shape[1] <= FEW_QUERIES):
        return _attention_by_products(q, k, v, attn_mask, is_causal)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal).transpose(1, 2)


class _Linear(torch.autograd.Function):
    """`linear` of bfloat16 rows with a weight of any dtype, whose gradient is of that dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        """x [R, K] -> [R, O]."""
        low = weight.to(x.dtype)
        ctx.save_for_backward(x, low)
        ctx.scale, ctx.dtypes = scale, (weight.dtype, None if bias is None else bias.dtype)
        return _product(x, low.T, None if bias is None else bias.to(x.dtype), scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """[R, O] -> gradients of x [R, K], weight [O, K] and bias [O]."""
        (g,), (x, weight), (weight_dtype, bias_dtype) = gradients, ctx.saved_tensors, ctx.dtypes
        for_x = _product(g, weight, None, ctx.scale) if ctx.needs_input_grad[0] else None
        outputs, inputs = weight.shape
        if outputs < inputs:  # the narrower factor is copied, so that neither is read across its rows
            for_weight = _scaled(g.T.contiguous(), x, ctx.scale)
        else:
            for_weight = _scaled(g.T, x, ctx.scale)
        for_bias = None if bias_dtype is None else g.sum(0).to(bias_dtype)
        return for_x, for_weight.to(weight_dtype), for_bias, None


def _product(x: Tensor, factor: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """scale * x factor + bias, [R, K] x [K, O] -> [R, O]."""
    inputs, outputs = factor.shape
    if outputs > min(inputs - 1, 4 * SLICE) or not shares_badly():
        return _scaled(x, factor, scale, bias)
    biases = [None] * -(-outputs // SLICE) if bias is None else bias.split(SLICE)
    slices = zip(factor.split(SLICE, dim=1), biases, strict=True)
    return torch.cat([_scaled(x, part, scale, part_bias) for part, part_bias in slices], dim=1)


def shares_badly() -> bool:
    """Whether threads share products of few outputs badly here: where they compute with AMX; without, slices cost 2 %.

    A property of the machine, not a measurement: runs of one seed stay the same.
    """
    return torch.get_num_threads() > 1 and cpu_capabilities().get("amx_bf16", False)


def cpu_capabilities() -> dict[str, Any]:
    """What torch knows of this CPU; nothing with torch 2.6."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def warn_of_slow_bfloat16(device: torch.device, way_out: str) -> None:
    """Warn if bfloat16 is about to be computed on an x86 CPU that has no instructions for it: about 7 times slower."""
    known = cpu_capabilities()
    fast = any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "avx_ne_convert"))
    if device.type == "cpu" and known.get("architecture") == "x86_64" and not fast:
        warnings.warn(
            f"bfloat16 on a CPU without instructions for it ({known.get('cpu_name', 'unknown')}) is about 7 times "
            f"slower than float32; {way_out}",
            ClipVipWarning,
            stacklevel=3,
        )


def _scaled(a: Tensor, b: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """scale * a b + bias in one product."""
    if bias is None:
        return torch.addmm(a.new_empty(1), a, b, beta=0, alpha=scale)
    return torch.addmm(bias, a, b, alpha=scale)


def _attention_by_products(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
    batch, num_queries, heads, width = q.shape
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # [B*H, Q or N, d]
    scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=width**-0.5)
    if is_causal:
        attn_mask = torch.ones(num_queries, k.shape[1], dtype=torch.bool).tril()
    if attn_mask is not None:
        scores = scores.unflatten(0, (batch, heads)).masked_fill(~attn_mask, -torch.inf).flatten(0, 1)
    return torch.bmm(_Softmax.apply(scores), v).unflatten(0, (batch, heads)).transpose(1, 2)


class _Softmax(torch.autograd.Function):
    """Softmax over the last axis, in place. It is computed in float32, which is faster, a cacheful at a time."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        """[R, Q, N] -> the same, overwritten."""
        for part in _cachefuls(scores):
            part.copy_(part.softmax(-1, dtype=torch.float32))
        ctx.mark_dirty(scores)
        ctx.save_for_backward(scores)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """[R, Q, N] -> the gradient of the scores [R, Q, N]."""
        (weights,), (g,) = ctx.saved_tensors, gradients
        for_scores = torch.empty_like(weights)
        for part, weight, gradient in zip(*map(_cachefuls, (for_scores, weights, g)), strict=True):
            part.copy_(torch._softmax_backward_data(gradient.float(), weight.float(), -1, torch.float32))
        return for_scores


def _cachefuls(x: Tensor) -> tuple[Tensor, ...]:
    """[R, Q, N] in slices of R."""
    return x.split(max(CACHEFUL // (x.shape[1] * x.shape[2]), 1))


def _is_bfloat16_on_a_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.bfloat16


def trains_in_bfloat16_on_a_cpu(x: Tensor) -> bool:
    """Whether products of x are computed here rather than by torch."""
    return _is_bfloat16_on_a_cpu(x) and torch.is_grad_enabled()
