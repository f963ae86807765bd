"""How each known checkpoint format names and lays out its tensors: one table a format, readable in both directions.

A rule pairs a pattern of theirs with one of ours. In a pattern `*` stands for one part of a name (a layer's number,
`weight` or `bias`) and `**` for all that follows; the n-th star of one side is the n-th star of the other. The first
rule that matches counts.

Source: the state dicts that the released code, transformers, OpenAI's CLIP and open_clip save.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from clipvip.model import ClipVipConfig


@dataclass(frozen=True)
class Layout:
    """How one tensor of theirs holds one or more of ours. read: theirs -> ours; write: ours -> theirs."""

    read: Callable[[Tensor], tuple[Tensor, ...]]
    write: Callable[[tuple[Tensor, ...]], Tensor]


SAME = Layout(lambda theirs: (theirs,), lambda ours: ours[0])
TRANSPOSED = Layout(lambda theirs: (theirs.T,), lambda ours: ours[0].T)
LEADING_ONE = Layout(lambda theirs: (theirs[0],), lambda ours: ours[0][None])  # [1, ...] -> [...]
FUSED = Layout(lambda theirs: theirs.chunk(3), torch.cat)  # query, key and value stacked: [3 D, ...] -> 3 of [D, ...]


@dataclass(frozen=True)
class Rule:
    """Their pattern, our pattern (several where theirs holds several tensors), and the layout."""

    theirs: str
    ours: str | tuple[str, ...]
    layout: Layout = SAME

    @property
    def parts(self) -> tuple[str, ...]:
        """Our patterns."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours


@dataclass(frozen=True)
class Format:
    """One kind of checkpoint.

    marks: a key that starts with one of these tells the format. rules: the table. buffers: keys that hold no weights;
    the value each must have, given the model's configuration, after which it is dropped. aggregator: of our model.
    """

    name: str
    marks: tuple[str, ...]
    rules: tuple[Rule, ...]
    buffers: dict[str, Callable[[ClipVipConfig], Tensor]]
    aggregator: str = "mean"


@dataclass(frozen=True)
class Place:
    """Where a tensor of ours is in their file: the key, everything of ours that it holds, and how."""

    key: str
    ours: tuple[str, ...]
    layout: Layout


def _text_positions(config: ClipVipConfig) -> Tensor:
    return torch.arange(config.text.max_position_embeddings)[None]


def _vision_positions(config: ClipVipConfig) -> Tensor:
    return torch.arange(1 + (config.vision.image_size // config.vision.patch_size) ** 2)[None]


def _blocks(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Transformer blocks as OpenAI names them; `theirs` and `ours` lead to the list of layers."""
    qkv = tuple(f"{ours}.*.self_attn.{part}_proj.*" for part in "qkv")
    return (
        Rule(f"{theirs}.*.ln_1.*", f"{ours}.*.layer_norm1.*"),
        Rule(f"{theirs}.*.attn.in_proj_*", qkv, FUSED),
        Rule(f"{theirs}.*.attn.out_proj.*", f"{ours}.*.self_attn.out_proj.*"),
        Rule(f"{theirs}.*.ln_2.*", f"{ours}.*.layer_norm2.*"),
        Rule(f"{theirs}.*.mlp.c_fc.*", f"{ours}.*.mlp.fc1.*"),
        Rule(f"{theirs}.*.mlp.c_proj.*", f"{ours}.*.mlp.fc2.*"),
    )


def _openai_rules(text: str = "") -> tuple[Rule, ...]:
    """OpenAI's names; `text` is the prefix of the text tower."""
    return (
        Rule("visual.class_embedding", "vision_model.embeddings.class_embedding"),
        Rule("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
        Rule("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        Rule("visual.ln_pre.*", "vision_model.pre_layrnorm.*"),
        *_blocks("visual.transformer.resblocks", "vision_model.encoder.layers"),
        Rule("visual.ln_post.*", "vision_model.post_layernorm.*"),
        Rule("visual.proj", "visual_projection.weight", TRANSPOSED),  # [D, E]
        Rule(f"{text}token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        Rule(f"{text}positional_embedding", "text_model.embeddings.position_embedding.weight"),
        *_blocks(f"{text}transformer.resblocks", "text_model.encoder.layers"),
        Rule(f"{text}ln_final.*", "text_model.final_layer_norm.*"),
        Rule(f"{text}text_projection", "text_projection.weight", TRANSPOSED),  # [D, E]
        Rule("logit_scale", "logit_scale"),
    )


ARCHIVE_SCALARS: dict[str, Callable[[ClipVipConfig], Tensor]] = {
    "input_resolution": lambda config: torch.tensor(config.vision.image_size),
    "context_length": lambda config: torch.tensor(config.text.max_position_embeddings),
    "vocab_size": lambda config: torch.tensor(config.text.vocab_size),
}
"""What OpenAI's own archives carry beside the weights (and nobody else's)."""

RELEASED = Format(
    "released",
    marks=("clipmodel.",),
    rules=(
        Rule("clipmodel.vision_model.embeddings.added_cls", "vision_model.embeddings.proxy_tokens"),
        Rule(
            "clipmodel.vision_model.embeddings.temporal_embedding",  # [1, T, D]
            "vision_model.embeddings.temporal_embedding",
            LEADING_ONE,
        ),
        Rule("clipmodel.**", "**"),  # everything else has transformers' names, which are ours
    ),
    buffers={
        "clipmodel.text_model.embeddings.position_ids": _text_positions,
        "clipmodel.vision_model.embeddings.position_ids": _vision_positions,
    },
    aggregator="vip",
)
RELEASED_MEAN = replace(RELEASED, rules=(Rule("clipmodel.**", "**"),), aggregator="mean")
"""What the released code saves when it is trained as MeanPool: CLIP without proxies or temporal embedding."""
HUGGING_FACE = Format(
    "huggingface",
    marks=("vision_model.", "text_model."),
    rules=(Rule("**", "**"),),
    buffers={
        "text_model.embeddings.position_ids": _text_positions,
        "vision_model.embeddings.position_ids": _vision_positions,
    },
)
OPEN_CLIP_CUSTOM_TEXT = Format(
    "open_clip",
    marks=("text.token_embedding.", "text.transformer.", "text.positional_embedding"),
    rules=_openai_rules("text."),
    buffers={},
)
OPENAI = Format("openai", marks=("visual.",), rules=_openai_rules(), buffers=ARCHIVE_SCALARS)
"""OpenAI's layout, which open_clip's standard models share."""

RELEASED_PROXIES = "clipmodel.vision_model.embeddings.added_cls"
RELEASED_TEMPORAL = "clipmodel.vision_model.embeddings.temporal_embedding"
RELEASED_VIDEO_KEYS = frozenset({RELEASED_PROXIES, RELEASED_TEMPORAL})
"""What a released file of type ViP has, the first even without added proxies (then it is empty)."""

FORMATS = (RELEASED, HUGGING_FACE, OPEN_CLIP_CUSTOM_TEXT, OPENAI)


def recognise(keys: Iterable[str]) -> Format | None:
    """The format whose mark some key bears, None if there is none."""
    keys = tuple(keys)
    found = next((known for known in FORMATS if any(key.startswith(known.marks) for key in keys)), None)
    if found is RELEASED and RELEASED_VIDEO_KEYS.isdisjoint(keys):
        return RELEASED_MEAN
    return found


def to_ours(known: Format, key: str) -> tuple[str, ...]:
    """Our names for what a key of theirs holds; none if the table does not know it."""
    for rule in known.rules:
        names = tuple(_translate(key, rule.theirs, part) for part in rule.parts)
        if names[0] is not None:
            return tuple(name for name in names if name is not None)
    return ()


def to_theirs(known: Format, name: str) -> Place:
    """Where they keep the tensor that we call `name`. Raises: KeyError if the format has no place for it."""
    for rule in known.rules:
        for part in rule.parts:
            key = _translate(name, part, rule.theirs)
            if key is not None:
                ours = tuple(_translate(key, rule.theirs, pattern) or "" for pattern in rule.parts)
                return Place(key, ours, rule.layout)
    raise KeyError(name)


def _translate(name: str, pattern: str, into: str) -> str | None:
    """`name` rewritten from one pattern to another, None if it does not match."""
    match = _regex(pattern).fullmatch(name)
    if match is None:
        return None
    found = iter(match.groups())
    return re.sub(r"\*\*?", lambda _: next(found), into)


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    wild = {"*": r"([^.]+)", "**": r"(.+)"}
    return re.compile("".join(wild.get(piece) or re.escape(piece) for piece in re.split(r"(\*\*?)", pattern)))
