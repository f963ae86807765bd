"""Every field of a model's configuration and of its processor does something, and is saved.

A new field without a row here fails one of the `..._has_a_row` tests. Recipes: see
tests/integration/test_every_field.py.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from clipvip.encode import Encoder
from clipvip.errors import ConfigError
from clipvip.model import ClipVipConfig, ClipVipModel, ClipVipProcessor
from clipvip.model.configuration_clipvip import TOWER_KEYS_READ
from clipvip.model.tokenizer import train_clip_tokenizer
from helpers_fields import Look, assert_covered, frozen
from helpers_model import TEXTS
from helpers_video import write_video

pytestmark = pytest.mark.filterwarnings("ignore:text .* was cut:clipvip.errors.ClipVipWarning")

TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50,
    "max_position_embeddings": 16, "bos_token_id": 48, "eos_token_id": 49, "pad_token_id": 49,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 16,
}  # fmt: skip
SMALL: dict[str, Any] = {"text_config": TEXT, "vision_config": VISION, "projection_dim": 16, "num_frames": 4}


@dataclass(frozen=True)
class Made:
    """A model from scratch, and what it makes of fixed inputs while it trains."""

    start: dict[str, bytes]
    shapes: dict[str, tuple[int, ...]]
    video: bytes
    text: bytes
    logits: bytes


def made(**changes: Any) -> Made:
    torch.manual_seed(0)
    model = ClipVipModel(ClipVipConfig(**{**SMALL, **changes})).train()
    vision = model.config.vision_config
    inputs = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 4, vision.num_channels, vision.image_size, vision.image_size, generator=inputs)
    tokens = torch.tensor([[48, 1, 2, 47, 5, 49], [48, 7, 47, 3, 2, 49]])
    torch.manual_seed(2)
    with torch.no_grad():
        out = model(pixels, tokens)
    video, text, logits = (
        value.numpy().tobytes() for value in (out.video_embeds, out.text_embeds, out.logits_per_text)
    )
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    return Made(frozen(model), shapes, video, text, logits)


def of_model(name: str) -> Look:
    return name, lambda model: getattr(model, name)


def shape(name: str) -> Look:
    return name, lambda model: model.shapes[f"vision_model.embeddings.{name}"]


SHAPES, VIDEO, TEXT_OUT, LOGITS = (of_model(name) for name in ("shapes", "video", "text", "logits"))
START = of_model("start")


@dataclass(frozen=True)
class ConfigRow:
    """Another value of a field, what it changes and what it leaves, beside a model that differs in that field alone.

    given: what both have.
    """

    field: str
    value: Any
    changes: tuple[Look, ...]
    keeps: tuple[Look, ...] = ()
    given: tuple[tuple[str, Any], ...] = ()


CONFIG_ROWS = [
    ConfigRow("text_config", {**TEXT, "hidden_size": 16}, (SHAPES, TEXT_OUT)),
    ConfigRow("vision_config", {**VISION, "hidden_size": 16}, (SHAPES, VIDEO)),
    ConfigRow("projection_dim", 8, (SHAPES, VIDEO, TEXT_OUT)),
    ConfigRow("num_frames", 6, (shape("temporal_embedding"),)),
    ConfigRow("num_proxies", 2, (shape("proxy_tokens"), VIDEO)),
    ConfigRow("aggregator", "full", (VIDEO,), (START, TEXT_OUT)),
    ConfigRow("proxy_init", "normal", (START, VIDEO), (SHAPES, TEXT_OUT)),
    ConfigRow("num_temporal_layers", 2, (SHAPES, VIDEO), (), (("aggregator", "transformer"),)),
    ConfigRow("logit_scale_init_value", 1.0, (LOGITS,), (VIDEO, TEXT_OUT)),
    ConfigRow("initializer_factor", 2.0, (START, VIDEO, TEXT_OUT), (SHAPES,)),
]  # fmt: skip


@pytest.mark.parametrize("row", CONFIG_ROWS, ids=lambda row: row.field)
def test_a_field_of_a_model_changes_it_and_is_saved(row: ConfigRow, tmp_path: Path) -> None:
    """Catches a size or choice that the model does not follow, or that its folder forgets."""
    given = dict(row.given)
    base, other = made(**given), made(**given, **{row.field: row.value})
    for what, look in row.changes:
        assert look(base) != look(other), f"{row.field}={row.value}: {what} as before"
    for what, look in row.keeps:
        assert look(base) == look(other), f"{row.field}={row.value}: {what} changed"
    config = ClipVipConfig(**{**SMALL, **given, row.field: row.value})
    config.save_pretrained(tmp_path)
    saved, expected = AutoConfig.from_pretrained(tmp_path).to_dict()[row.field], config.to_dict()[row.field]
    if isinstance(expected, dict):  # transformers adds keys of its own
        saved = {name: value for name, value in saved.items() if name in expected}
    assert saved == expected
    assert ClipVipConfig.from_pretrained(tmp_path) == config
    assert config.to_dict()[row.field] != ClipVipConfig(**{**SMALL, **given}).to_dict()[row.field]


def own_fields(config: type[PreTrainedConfig]) -> set[str]:
    """Without those that every configuration of transformers has."""
    return {each.name for each in fields(config)} - {each.name for each in fields(PreTrainedConfig)}


def test_every_field_of_a_model_has_a_row() -> None:
    """Catches a new field that nothing shows the effect of."""
    told = {"clip_duration_s"}  # computes nothing: a search index takes its windows from it (test_incremental.py)
    assert_covered({row.field for row in CONFIG_ROWS} | told, own_fields(ClipVipConfig))


TOWER_ROWS = [
    pytest.param("text_config", "vocab_size", 60),
    pytest.param("text_config", "hidden_size", 16),
    pytest.param("text_config", "intermediate_size", 32),
    pytest.param("text_config", "num_hidden_layers", 1),
    pytest.param("text_config", "num_attention_heads", 4),
    pytest.param("text_config", "max_position_embeddings", 20),
    pytest.param("text_config", "hidden_act", "gelu"),
    pytest.param("text_config", "layer_norm_eps", 1e-2),
    pytest.param("text_config", "eos_token_id", 47),
    pytest.param("text_config", "attention_dropout", 0.5),
    pytest.param("vision_config", "hidden_size", 16),
    pytest.param("vision_config", "intermediate_size", 32),
    pytest.param("vision_config", "num_hidden_layers", 1),
    pytest.param("vision_config", "num_attention_heads", 4),
    pytest.param("vision_config", "num_channels", 1),
    pytest.param("vision_config", "image_size", 64),
    pytest.param("vision_config", "patch_size", 8),
    pytest.param("vision_config", "hidden_act", "gelu"),
    pytest.param("vision_config", "layer_norm_eps", 1e-2),
    pytest.param("vision_config", "initializer_range", 0.5),
    pytest.param("vision_config", "attention_dropout", 0.5),
]


@pytest.mark.parametrize(("tower", "name", "value"), TOWER_ROWS)
def test_a_field_of_a_tower_changes_that_tower(tower: str, name: str, value: Any) -> None:
    """Catches a size or choice of a tower that is taken and not followed; refusing it would be well."""
    base = made()
    try:
        other = made(**{tower: {**SMALL[tower], name: value}})
    except (ConfigError, StrictDataclassError):
        return
    seen = [(model.shapes, model.video if tower == "vision_config" else model.text) for model in (base, other)]
    assert seen[0] != seen[1], f"{tower}.{name}={value}: all as before"


def test_every_field_of_a_tower_has_a_row() -> None:
    """Catches a field that another version of transformers adds."""
    unread = {"projection_dim", "initializer_factor", "attention_dropout"}  # CLIPModel reads none but the last
    unread_text = {*unread, "initializer_range", "pad_token_id", "bos_token_id"}
    for tower, config, other in (
        ("text_config", CLIPTextConfig, unread_text),
        ("vision_config", CLIPVisionConfig, unread),
    ):
        assert_covered({*TOWER_KEYS_READ[tower], *other}, own_fields(config))
        rows = {row.values[1] for row in TOWER_ROWS if row.values[0] == tower}
        assert_covered(rows, {*TOWER_KEYS_READ[tower], "attention_dropout"})


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_clip_tokenizer(TEXTS)


@pytest.mark.parametrize(
    ("tower", "name", "value"),
    [
        (None, "aggregator", "full"),
        ("text_config", "num_attention_heads", 4),
        ("text_config", "hidden_act", "gelu"),
        ("text_config", "eos_token_id", 47),
        pytest.param("text_config", "layer_norm_eps", 1e-2),
        ("vision_config", "num_attention_heads", 4),
        ("vision_config", "hidden_act", "gelu"),
        pytest.param("vision_config", "layer_norm_eps", 1e-2),
    ],
)
def test_what_changes_embeddings_changes_the_fingerprint(
    tower: str | None, name: str, value: Any, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Catches an index that is searched by a model with the same weights and another configuration."""
    changes = {name: value} if tower is None else {tower: {**SMALL[tower], name: value}}
    plain, other = (ClipVipModel(ClipVipConfig(**{**SMALL, **some})) for some in ({}, changes))
    other.load_state_dict(plain.state_dict())
    processor = ClipVipProcessor(tokenizer)
    assert Encoder(plain, processor).fingerprint != Encoder(other, processor).fingerprint


@dataclass(frozen=True)
class ProcessorRow:
    """Another value of a field; `changes`, which then has this shape, is what it changes, and the other it leaves."""

    field: str
    value: Any
    changes: str
    shape: tuple[int, ...]


PIXELS = (1, 4, 3, 32, 32)
PROCESSOR_ROWS = [
    ProcessorRow("num_frames", 2, "pixel_values", (1, 2, 3, 32, 32)),
    ProcessorRow("image_size", 24, "pixel_values", (1, 4, 3, 24, 24)),
    ProcessorRow("resize", "crop", "pixel_values", PIXELS),
    ProcessorRow("resize_in", "decoder", "pixel_values", PIXELS),
    ProcessorRow("antialias", True, "pixel_values", PIXELS),
    ProcessorRow("image_mean", [0.5, 0.5, 0.5], "pixel_values", PIXELS),
    ProcessorRow("image_std", [0.5, 0.5, 0.5], "pixel_values", PIXELS),
    ProcessorRow("max_text_tokens", 5, "input_ids", (1, 5)),
    ProcessorRow("text_cleaning", "openai", "input_ids", (1, 10)),
    ProcessorRow("tokenizer", "another", "input_ids", (1, 32)),
]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "wide.mp4")


@pytest.mark.parametrize("row", PROCESSOR_ROWS, ids=lambda row: row.field)
def test_a_field_of_a_processor_changes_what_it_makes_and_is_saved(
    row: ProcessorRow, video: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Catches a setting that is not followed, not saved, or not read back: search would see other pixels."""
    value = train_clip_tokenizer(["zzz"]) if row.field == "tokenizer" else row.value
    plain = {"tokenizer": tokenizer, "num_frames": 4, "image_size": 32, "max_text_tokens": 32}
    ClipVipProcessor(**{**plain, row.field: value}).save_pretrained(tmp_path)
    base, other = (
        processor(videos=[video], texts=[f"{TEXTS[0]} &amp;"])
        for processor in (ClipVipProcessor(**plain), AutoProcessor.from_pretrained(tmp_path))
    )
    assert tuple(other[row.changes].shape) == row.shape
    assert not torch.equal(base[row.changes], other[row.changes]), f"{row.field}={row.value}: as before"
    [kept] = {"pixel_values", "input_ids"} - {row.changes}
    assert torch.equal(base[kept], other[kept]), f"{row.field}={row.value}: {kept} changed"


def test_every_field_of_a_processor_has_a_row() -> None:
    """Catches a new field that nothing shows the effect of."""
    assert_covered({row.field for row in PROCESSOR_ROWS}, set(inspect.signature(ClipVipProcessor).parameters))
