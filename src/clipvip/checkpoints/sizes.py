"""The configuration of a bare state dict: sizes off the tensors, the rest from what is known of the public models.

Letters: D width, E embedding size, T frames, M proxies, V vocabulary, p patch, g patches along a side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from clipvip.checkpoints.keymaps import ARCHIVE_SCALARS, RELEASED, Format, to_ours, to_theirs
from clipvip.errors import CheckpointError, UsageError
from clipvip.model import ClipVipConfig
from clipvip.weights import misfit

VISION_HEADS = {768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
"""Width of the vision tower -> heads: ViT-B, L (OpenAI), H, g, bigG (open_clip)."""
TEXT_HEADS = {512: 8, 768: 12, 1024: 16, 1280: 20}
"""Width of the text tower -> heads: beside ViT-B, L, H and g, bigG."""
ACTIVATIONS = ("quick_gelu", "gelu")
GELU_WIDTHS = (1280, 1408, 1664)
"""Vision widths that OpenAI never used; open_clip's own configurations of these have the exact GELU."""
_ANCHORS = {  # what the sizes are read off, with the number of axes each must have
    "vision_model.embeddings.class_embedding": 1,
    "vision_model.embeddings.patch_embedding.weight": 4,
    "vision_model.embeddings.position_embedding.weight": 2,
    "vision_model.encoder.layers.0.mlp.fc1.weight": 2,
    "visual_projection.weight": 2,
    "text_model.embeddings.token_embedding.weight": 2,
    "text_model.embeddings.position_embedding.weight": 2,
    "text_model.encoder.layers.0.mlp.fc1.weight": 2,
}
_PROXIES = "vision_model.embeddings.proxy_tokens"
_TEMPORAL = "vision_model.embeddings.temporal_embedding"


@dataclass(frozen=True)
class Wanted:
    """What the caller knows better than the file; None: read, looked up or assumed."""

    vision_heads: int | None = None
    text_heads: int | None = None
    hidden_act: str | None = None
    eos_token_id: int | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("vision_heads", "text_heads", "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value}: must be at least 1")
        if self.hidden_act is not None and self.hidden_act not in ACTIVATIONS:
            raise UsageError(f"hidden_act={self.hidden_act!r}: choose {' or '.join(ACTIVATIONS)}")


def read_config(
    state: Mapping[str, Tensor], known: Format, where: str, wanted: Wanted
) -> tuple[ClipVipConfig, tuple[str, ...]]:
    """The configuration that fits a state dict of a known format, and notes on what had to be assumed.

    Raises: CheckpointError for a missing or mis-shaped tensor that sizes are read off, layers with a gap, a position
    grid that is not square, or a width that is nobody's (then the heads must be given).
    """
    shape = _anchor_shapes(state, known, where)
    width, channels, patch, other_side = shape["vision_model.embeddings.patch_embedding.weight"]
    positions = shape["vision_model.embeddings.position_embedding.weight"][0]
    grid = math.isqrt(max(positions - 1, 0))
    if grid < 1 or grid**2 != positions - 1:
        key = to_theirs(known, "vision_model.embeddings.position_embedding.weight").key
        raise CheckpointError(f"{where}: {key} has {positions} rows, expected one and a square number (class and grid)")
    if patch != other_side:
        raise CheckpointError(f"{where}: patches of {patch} x {other_side} pixels; only square ones are known")
    vocabulary, text_width = shape["text_model.embeddings.token_embedding.weight"]
    eos = vocabulary - 1 if wanted.eos_token_id is None else wanted.eos_token_id
    check_eos(eos, vocabulary, where)
    heads = _heads({"vision": width, "text": text_width}, wanted, where)
    activation, notes = _activation(state, known, width, wanted)
    text = {
        "hidden_size": text_width,
        "intermediate_size": shape["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _num_layers(state, known, "text_model", where),
        "num_attention_heads": heads["text"],
        "max_position_embeddings": shape["text_model.embeddings.position_embedding.weight"][0],
        "vocab_size": vocabulary,
        "bos_token_id": max(vocabulary - 2, 0),
        "eos_token_id": eos,
        "pad_token_id": eos,
        "hidden_act": activation,
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": shape["vision_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _num_layers(state, known, "vision_model", where),
        "num_attention_heads": heads["vision"],
        "num_channels": channels,
        "image_size": grid * patch,
        "patch_size": patch,
        "hidden_act": activation,
    }
    video: dict[str, Any] = {"aggregator": known.aggregator}
    if known is RELEASED:
        added = state.get(to_theirs(known, _PROXIES).key, torch.empty(0, width))
        if added.ndim != 2:
            raise misfit(
                where, f"the {known.name} layout", misshaped=(f"{to_theirs(known, _PROXIES).key} {list(added.shape)}",)
            )
        video |= {"num_frames": shape[_TEMPORAL][0], "num_proxies": 1 + len(added)}
    projection = shape["visual_projection.weight"][0]
    return ClipVipConfig(text_config=text, vision_config=vision, projection_dim=projection, **video), notes


def check_heads(heads: int, width: int, tower: str, where: str) -> None:
    """Raises: CheckpointError if so many heads cannot share that width."""
    if width % heads:
        raise CheckpointError(f"{where}: {tower}_heads={heads} does not divide the {tower} tower's width {width}")


def check_eos(eos: int, vocabulary: int, where: str) -> None:
    """Raises: CheckpointError if the end token is no token."""
    if not 0 <= eos < vocabulary:
        raise CheckpointError(f"{where}: eos_token_id={eos}, but its tokens are 0 to {vocabulary - 1}")


def _anchor_shapes(state: Mapping[str, Tensor], known: Format, where: str) -> dict[str, torch.Size]:
    """Shapes of the tensors the sizes are read off, in our layout, by our names."""
    anchors = _ANCHORS | ({_TEMPORAL: 2} if known is RELEASED else {})
    places = {name: to_theirs(known, name) for name in anchors}
    missing = tuple(place.key for place in places.values() if place.key not in state)
    if missing:
        unknown = tuple(key for key in state if not to_ours(known, key) and key not in known.buffers)
        raise misfit(where, f"the {known.name} layout", missing=missing, left_over=unknown)
    shapes = {}
    for name, place in places.items():
        found = state[place.key]
        axes = place.layout.write((torch.empty([1] * anchors[name], device="meta"),)).ndim
        if found.ndim != axes or 0 in found.shape:
            raise misfit(
                where,
                f"the {known.name} layout",
                misshaped=(f"{place.key} {list(found.shape)}, expected {axes} axes, none 0",),
            )
        shapes[name] = place.layout.read(found)[0].shape
    return shapes


def _num_layers(state: Mapping[str, Tensor], known: Format, tower: str, where: str) -> int:
    pattern = re.compile(rf"{tower}\.encoder\.layers\.(\d+)\.")
    names = (name for key in state for name in to_ours(known, key)[:1])
    found = {int(match[1]) for match in map(pattern.match, names) if match}
    gap = next((i for i in range(len(found)) if i not in found), None)
    if gap is not None:
        raise CheckpointError(
            f"{where}: {tower} has layers with a gap: {len(found)} of them, numbers up to {max(found)}, no {gap}"
        )
    return len(found)


def _heads(widths: dict[str, int], wanted: Wanted, where: str) -> dict[str, int]:
    """Heads by tower: as given, or of the public model of that width. widths: by tower."""
    tables, given = {"vision": VISION_HEADS, "text": TEXT_HEADS}, asdict(wanted)
    heads = {tower: given[f"{tower}_heads"] or tables[tower].get(width) for tower, width in widths.items()}
    unknown = [tower for tower, count in heads.items() if count is None]
    if unknown:
        told = " and ".join(f"the {tower} tower is {widths[tower]} wide" for tower in unknown)
        wish = " and ".join(f"{tower}_heads (--{tower}-heads)" for tower in unknown)
        raise CheckpointError(
            f"{where}: {told}, like no public model, and heads cannot be read off the weights; give {wish}"
        )
    known = {tower: count for tower, count in heads.items() if count is not None}
    for tower, count in known.items():
        check_heads(count, widths[tower], tower, where)
    return known


def _activation(state: Mapping[str, Tensor], known: Format, width: int, wanted: Wanted) -> tuple[str, tuple[str, ...]]:
    """The towers' activation, which no state dict says, and a note where it is more of a guess than a fact."""
    if wanted.hidden_act is not None:
        return wanted.hidden_act, ()
    if known.name == RELEASED.name or not ARCHIVE_SCALARS.keys().isdisjoint(state):
        return "quick_gelu", ()
    if known.name == "huggingface":
        return "quick_gelu", (
            "hidden_act=quick_gelu assumed; if the model's config.json says gelu (as LAION's do), give that "
            "(--hidden-act) or convert its folder",
        )
    if width in GELU_WIDTHS:
        return "gelu", (
            "hidden_act=gelu assumed; open_clip's models with '-quickgelu' in their name want quick_gelu "
            "(--hidden-act)",
        )
    return "quick_gelu", (
        "hidden_act=quick_gelu assumed; open_clip's LAION models without '-quickgelu' in their name want gelu "
        "(--hidden-act)",
    )
