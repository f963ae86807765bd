"""The same outputs with less work: what `optimize_for_inference` puts in the place of a tower's blocks.

Keys and values come from one product, quick GELU's factors are folded into the weights, activations are computed in
place, and each matrix product runs on the faster of the available kernels. Only products and attention are computed in
bfloat16, as under autocast in training: the residual stream and the norms stay float32, which costs 3 % of the time and
makes the error four times smaller.

Shapes: B batch, N tokens, Q queries, D width, H heads, d = D / H, K inputs, O outputs of a layer, F frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipvip.errors import UsageError
from clipvip.model.kernels.products import SLICE, shares_badly, warn_of_slow_bfloat16
from clipvip.model.kernels.training import (
    QUICK_GELU,
    FastAttention,
    FastMLP,
    FastPatchEmbedding,
    cut_patches,
    has_hooks,
    to_grid,
    use_fast_layers,
)
from clipvip.model.modeling_clipvip import (
    ACTIVATION_FUNCTIONS,
    MLP,
    Attend,
    Attention,
    Block,
    ClipVipCore,
    LayerScale,
    TextTransformer,
    VisionTransformer,
)

WORTHWHILE = 1.3
"""A kernel must be this many times faster than the default: below, the noise of a timing could decide for either."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2.0**-6}
"""Largest difference between two kernels of one dtype, relative to the largest output: rounding, and no more."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

FUSABLE = {
    nn.ModuleList, Block, Attention, FastAttention, MLP, FastMLP, nn.Linear, nn.LayerNorm, nn.Identity, LayerScale,
    nn.Conv2d, FastPatchEmbedding,
}  # fmt: skip
"""Modules of which it is known what they compute."""

Kernel = Callable[[Tensor], Tensor]


@torch.no_grad()
def optimize_for_inference(model: ClipVipCore, dtype: str = "auto") -> None:
    """Make encoding faster, in place; training, moving or saving the model afterwards is an error.

    Fuses projections, folds constants, drops temporaries, and on a CPU packs the weights for oneDNN where that is
    faster: measured once per process, and only if the results agree. No global torch setting changes. Move the model to
    its device before. If it fails, for example for lack of memory, the model is as it was.

    Args:
        model: The model.
        dtype: "float32" (embeddings within 1e-5 of before), "bfloat16" (within 2e-3, cosine at least 0.999) or "auto"
            (bfloat16 where the hardware computes in it).
    Raises: UsageError for another dtype, a model that is optimised already, or one with adapters or hooks.
    """
    if dtype not in ("auto", *DTYPES):
        raise UsageError(f"dtype={dtype!r}: choose auto, {' or '.join(DTYPES)}")
    if isinstance(model, _ForInference):
        model._refuse("optimising")
    # the temporal transformer gets one token per frame, which is little work: it has the layers for training
    towers: tuple[VisionTransformer | TextTransformer, ...] = (model.vision_model, model.text_model)
    _refuse_additions(model)
    compute = fastest_dtype(model.device) if dtype == "auto" else DTYPES[dtype]
    if compute == torch.bfloat16:
        warn_of_slow_bfloat16(model.device, "use dtype='float32' (--dtype float32)")
    training = [module for module in model.modules() if module.training]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    vision = model.vision_model.embeddings
    try:  # all of it is built before any of it is used
        onednn = model.device.type == "cpu" and prefers_onednn(compute)
        fused = [_fuse(tower.encoder.layers, compute, onednn) for tower in towers]
        patch_embedding = FusedPatchEmbedding(vision.patch_embedding, compute, onednn)
    except BaseException:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True
        raise
    vision.patch_embedding = patch_embedding  # type: ignore[assignment]  # called as the convolution is
    for tower, blocks in zip(towers, fused, strict=True):
        tower.encoder.layers = blocks
    use_fast_layers(model)
    model.__class__ = _class_for_inference(type(model))
    model.optimized_for = compute  # type: ignore[assignment]  # an attribute of that class


def compute_dtype(model: ClipVipCore) -> torch.dtype:
    """What a model computes its products in: its weights' dtype, or what it was optimised for."""
    return model.optimized_for if isinstance(model, _ForInference) else model.dtype


class _ForInference:
    """What an optimised model refuses to do."""

    optimized_for: torch.dtype

    def train(self, mode: bool = True) -> Any:
        """Raises: UsageError, except for mode=False."""
        return super().train(mode) if not mode else self._refuse("training")  # type: ignore[misc]

    def state_dict(self, *args: Any, **options: Any) -> NoReturn:
        """Raises: UsageError."""
        self._refuse("saving")

    def save_pretrained(self, *args: Any, **options: Any) -> NoReturn:
        """Raises: UsageError."""
        self._refuse("saving")

    def _apply(self, *args: Any, **options: Any) -> NoReturn:
        self._refuse("moving")

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(f"{what} a model that is optimised for inference: its weights are fused; load it again")


def _fuse(blocks: nn.ModuleList, dtype: torch.dtype, onednn: bool) -> nn.ModuleList:
    return nn.ModuleList(FusedBlock(block, dtype, onednn) for block in blocks if isinstance(block, Block))


def _class_for_inference(plain: type[ClipVipCore]) -> type[ClipVipCore]:
    return type(plain.__name__, (_ForInference, plain), {"__module__": plain.__module__, "__doc__": plain.__doc__})


def _refuse_additions(model: ClipVipCore) -> None:
    """Raises: UsageError if something to be fused does more than its weights say: it has hooks, or is an adapter."""
    replaced: list[tuple[str, nn.Module]] = []
    for name, tower in (("text_model", model.text_model), ("vision_model", model.vision_model)):
        replaced += tower.encoder.layers.named_modules(prefix=f"{name}.encoder.layers")
    replaced += model.vision_model.embeddings.patch_embedding.named_modules(
        prefix="vision_model.embeddings.patch_embedding"
    )
    for name, module in replaced:
        if has_hooks(module) and not isinstance(module, nn.LayerNorm):  # norms stay as they are
            raise UsageError(f"{name} has hooks, which fused layers would not call: remove them first")
        if type(module) not in FUSABLE:
            raise UsageError(
                f"{name} is a {type(module).__module__}.{type(module).__name__}, whose weights are not all that it "
                "computes with: merge adapters first (merge_and_unload() of peft's model)"
            )


def dense(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, onednn: bool) -> Kernel:
    """A frozen linear layer, [..., K] -> [..., O]; weight [O, K], bias [O] or None.

    `onednn`: with packed weights, if they give the default kernel's results: some CPUs may round float32 inputs down.
    """
    weight = weight.detach().to(dtype).contiguous()
    bias = None if bias is None else bias.detach().to(dtype)
    default = partial(F.linear, weight=weight, bias=bias)
    if not onednn or (packed := _packed(weight, bias)) is None:
        return default
    rows = torch.randn(8, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = default(rows).float()
    difference = (packed(rows).float() - expected).abs().max()
    return packed if difference <= TOLERANCE[dtype] * expected.abs().max() else default


class FusedBlock(nn.Module):
    """A `Block` for inference: same output from fewer and larger operations."""

    def __init__(self, block: Block, dtype: torch.dtype, onednn: bool):
        super().__init__()
        attn, mlp = block.self_attn, block.mlp
        gain = QUICK_GELU if mlp.hidden_act == "quick_gelu" else 1.0
        self.num_heads, self.dtype = attn.num_heads, dtype
        self.layer_norm1, self.layer_norm2 = block.layer_norm1, block.layer_norm2
        self.scale1, self.scale2 = block.scale1, block.scale2
        self.query = dense(attn.q_proj.weight, attn.q_proj.bias, dtype, onednn)
        key_value = (
            torch.cat([attn.k_proj.weight, attn.v_proj.weight]),
            torch.cat([attn.k_proj.bias, attn.v_proj.bias]),
        )
        self.key_value = dense(*key_value, dtype, onednn)
        self.out = dense(attn.out_proj.weight, attn.out_proj.bias, dtype, onednn)
        self.fc1 = dense(gain * mlp.fc1.weight, gain * mlp.fc1.bias, dtype, onednn)
        self.fc2 = dense(mlp.fc2.weight / gain, mlp.fc2.bias, dtype, onednn)
        self.activation: Kernel = ACTIVATION_FUNCTIONS[mlp.hidden_act]
        if mlp.hidden_act == "quick_gelu":
            self.activation = nn.SiLU(inplace=True)

    def forward(self, x: Tensor, attend: Attend, query: Tensor | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]; with `query` [B, Q, D] only the output of those tokens [B, Q, D]."""
        keys = self.layer_norm1(x).to(self.dtype)
        if query is None:
            query, normed = x, keys
        else:
            normed = self.layer_norm1(query).to(self.dtype)
        q = self.query(normed).unflatten(-1, (self.num_heads, -1))  # [B, Q, H, d]
        k, v = self.key_value(keys).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)  # [B, N, H, d]
        hidden = query + self.scale1(self.out(attend(q, k, v).flatten(2)))
        mlp = self.fc2(self.activation(self.fc1(self.layer_norm2(hidden).to(self.dtype))))
        return hidden.add_(self.scale2(mlp))


class FusedPatchEmbedding(nn.Module):
    """The patch convolution for inference."""

    def __init__(self, convolution: nn.Conv2d, dtype: torch.dtype, onednn: bool):
        super().__init__()
        self.size, self.dtype = convolution.kernel_size[0], dtype
        self.dense = dense(convolution.weight.flatten(1), None, dtype, onednn)

    def forward(self, frames: Tensor) -> Tensor:
        """[F, 3, height, width] -> [F, D, h, w]."""
        return to_grid(self.dense(cut_patches(frames.to(self.dtype), self.size)))


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware computes in it, float32 elsewhere."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type != "cpu":
        return torch.float32
    speed = matmul_speed(torch.get_num_threads())
    fast = speed["bfloat16"] >= WORTHWHILE * max(speed["float32"], speed["float32 onednn"])
    return torch.bfloat16 if fast else torch.float32


def prefers_onednn(dtype: torch.dtype) -> bool:
    """Whether this CPU should run matrix products of `dtype` through oneDNN with packed weights.

    In float32 that is twice as fast as the default BLAS on some makers' CPUs and no faster on others': measured, once
    per process. In bfloat16 the default is oneDNN as well, and packing saves it a copy of the weights in every call.
    """
    speed = matmul_speed(torch.get_num_threads())
    if dtype == torch.bfloat16:
        return speed["bfloat16 onednn"] > 0
    return speed["float32 onednn"] >= WORTHWHILE * speed["float32"]


@cache
def matmul_speed(num_threads: int, rows: int = 384, width: int = 768, repeats: int = 6) -> dict[str, float]:
    """Rates of this CPU's matrix products in GFLOP/s; 0 where a kernel does not exist.

    Each is that of the fastest of interleaved runs: what slows the others down, such as a busy machine, is not the
    kernel's doing. Keys: dtype, with " onednn" for packed weights. `num_threads` is part of the key of the cache, not a
    setting.
    """
    kernels: dict[str, Callable[[], Tensor]] = {}
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            x, weight = torch.ones(rows, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
            kernels[name] = partial(F.linear, x, weight)
            if (packed := _packed(weight, None)) is not None:
                kernels[f"{name} onednn"] = partial(packed, x)
        seconds: dict[str, list[float]] = {name: [] for name in kernels}
        for _ in range(repeats):
            for name, kernel in kernels.items():
                start = time.perf_counter()
                kernel()
                seconds[name].append(time.perf_counter() - start)
    rates = dict.fromkeys(("float32", "float32 onednn", "bfloat16", "bfloat16 onednn"), 0.0)
    flops = 2.0 * rows * width * width
    return rates | {name: flops / min(spent) / 1e9 for name, spent in seconds.items()}


def _packed(weight: Tensor, bias: Tensor | None) -> Kernel | None:
    """A linear layer whose weights lie in oneDNN's own layout; None if this build of torch has no such operator.

    The operator is the one that torch.compile's freezing calls. Where threads would share it badly, a layer with many
    more inputs than outputs is cut into slices of outputs.
    """
    outputs, inputs = weight.shape
    size = SLICE if inputs >= 2 * outputs and shares_badly() else outputs
    slices = [None] * -(-outputs // size) if bias is None else bias.split(size)
    try:
        parts = [
            partial(_packed_linear, packed=torch.ops.mkldnn._reorder_linear_weight(rows.contiguous()), bias=part)
            for rows, part in zip(weight.split(size), slices, strict=True)
        ]
        parts[0](weight.new_ones(1, inputs))
    except (AttributeError, NotImplementedError, RuntimeError):
        return None
    if len(parts) == 1:
        return parts[0]
    return lambda x: torch.cat([part(x) for part in parts], dim=-1)


def _packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], None)
