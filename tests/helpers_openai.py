"""CLIP in OpenAI's layout: random weights under its names, and its forward pass over them as an independent oracle.

Written from the paper's description (arXiv 2103.00020, sections 2.4 and 2.5; torch's fused attention function), and
sharing nothing with `clipvip.model`. Shapes: N items, S tokens, D width, E embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """A small CLIP: widths, layers and so on of both towers."""

    vision_width: int = 32
    text_width: int = 24
    vision_heads: int = 4
    text_heads: int = 3
    layers: int = 2
    patch: int = 4
    grid: int = 3
    positions: int = 8
    vocabulary: int = 40
    embedding: int = 16

    @property
    def pixels(self) -> int:
        return self.patch * self.grid


def make_state(sizes: Sizes, seed: int = 0) -> State:
    """Random weights, large enough that a mistake anywhere shows in the output."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float = 0.02) -> Tensor:
        return std * torch.randn(*shape, generator=generator)

    def norm(name: str, width: int) -> State:
        return {f"{name}.weight": 1 + normal(width, std=0.2), f"{name}.bias": normal(width, std=0.2)}

    def linear(name: str, out: int, into: int, dot: str = ".") -> State:
        return {f"{name}{dot}weight": normal(out, into, std=into**-0.5), f"{name}{dot}bias": normal(out, std=0.2)}

    def blocks(name: str, width: int) -> State:
        state: State = {}
        for i in range(sizes.layers):
            block = f"{name}.resblocks.{i}"
            state |= norm(f"{block}.ln_1", width) | norm(f"{block}.ln_2", width)
            state |= linear(f"{block}.attn.in_proj", 3 * width, width, "_")
            state |= linear(f"{block}.attn.out_proj", width, width)
            state |= linear(f"{block}.mlp.c_fc", 3 * width, width) | linear(f"{block}.mlp.c_proj", width, 3 * width)
        return state

    vision, text = sizes.vision_width, sizes.text_width
    return {
        "visual.class_embedding": normal(vision, std=0.5),
        "visual.positional_embedding": normal(sizes.grid**2 + 1, vision, std=0.5),
        "visual.conv1.weight": normal(vision, 3, sizes.patch, sizes.patch, std=0.3),
        "visual.proj": normal(vision, sizes.embedding, std=vision**-0.5),
        **norm("visual.ln_pre", vision),
        **norm("visual.ln_post", vision),
        **blocks("visual.transformer", vision),
        "token_embedding.weight": normal(sizes.vocabulary, text, std=0.5),
        "positional_embedding": normal(sizes.positions, text, std=0.5),
        "text_projection": normal(text, sizes.embedding, std=text**-0.5),
        "logit_scale": torch.tensor(3.25),
        **norm("ln_final", text),
        **blocks("transformer", text),
    }


def activation(x: Tensor, hidden_act: str) -> Tensor:
    """OpenAI's approximation, or the exact GELU."""
    return x * torch.sigmoid(1.702 * x) if hidden_act == "quick_gelu" else F.gelu(x)


def encode_image(state: State, images: Tensor, heads: int, hidden_act: str) -> Tensor:
    """Images [N, 3, H, W] -> features [N, E], not normalised."""
    patches = F.conv2d(images, state["visual.conv1.weight"], stride=state["visual.conv1.weight"].shape[-1])
    tokens = patches.flatten(2).permute(2, 0, 1)  # [S - 1, N, D]
    first = state["visual.class_embedding"].expand(1, len(images), -1)
    x = torch.cat([first, tokens]) + state["visual.positional_embedding"][:, None]
    x = _blocks(state, "visual.transformer", _norm(state, "visual.ln_pre", x), heads, hidden_act)
    return _norm(state, "visual.ln_post", x[0]) @ state["visual.proj"]


def encode_text(state: State, input_ids: Tensor, heads: int, hidden_act: str) -> Tensor:
    """Token ids [N, S] -> features [N, E], not normalised; pooled at the highest id, the end token."""
    x = state["token_embedding.weight"][input_ids].transpose(0, 1)  # [S, N, D]
    x = x + state["positional_embedding"][: len(x), None]
    future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    x = _norm(state, "ln_final", _blocks(state, "transformer", x, heads, hidden_act, future))
    return x[input_ids.argmax(1), torch.arange(len(input_ids))] @ state["text_projection"]


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _blocks(state: State, name: str, x: Tensor, heads: int, hidden_act: str, mask: Tensor | None = None) -> Tensor:
    """Pre-norm blocks over [S, N, D]; mask [S, S], True = may not be seen."""
    for i in range(sum(key.startswith(f"{name}.resblocks.") and key.endswith(".ln_1.bias") for key in state)):
        block = f"{name}.resblocks.{i}"
        h = _norm(state, f"{block}.ln_1", x)
        attended, _ = F.multi_head_attention_forward(
            *(h, h, h, h.shape[-1], heads),
            *(state[f"{block}.attn.in_proj_weight"], state[f"{block}.attn.in_proj_bias"]),
            *(None, None, False, 0.0),
            *(state[f"{block}.attn.out_proj.weight"], state[f"{block}.attn.out_proj.bias"]),
            training=False,
            need_weights=False,
            attn_mask=mask,
        )
        x = x + attended
        h = activation(_linear(state, f"{block}.mlp.c_fc", _norm(state, f"{block}.ln_2", x)), hidden_act)
        x = x + _linear(state, f"{block}.mlp.c_proj", h)
    return x
