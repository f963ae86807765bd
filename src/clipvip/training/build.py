"""The model and processor that a recipe's `model` section asks for."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from clipvip.errors import ConfigError
from clipvip.model import ClipVipConfig, ClipVipModel, ClipVipProcessor
from clipvip.model.configuration_clipvip import TOWER_KEYS_READ
from clipvip.model.hub import load_tokenizer, read_config
from clipvip.model.pretrained import load_strictly
from clipvip.model.processing_clipvip import image_colours, stored_text_cleaning
from clipvip.training.config import ModelSection
from clipvip.video.transforms import CLIP_MEAN, CLIP_STD


def build_model(section: ModelSection) -> tuple[ClipVipModel, ClipVipProcessor]:
    """The model and processor a recipe's `model` section asks for; new parameters from torch's global generator.

    Raises: ConfigError, CheckpointError.
    """
    keys = ("aggregator", "num_frames", "num_proxies", "proxy_init", "num_temporal_layers")
    options = {key: value for key in keys if (value := getattr(section, key)) is not None}
    if "num_temporal_layers" in options and section.aggregator != "transformer":
        raise ConfigError(
            f"model.num_temporal_layers={section.num_temporal_layers} with aggregator={section.aggregator!r}: "
            "only 'transformer' has temporal layers; leave it out"
        )
    if section.init is None:
        if section.architecture is None or section.tokenizer is None:
            raise ConfigError(
                "model.init is not set: give a CLIP or clipvip folder as model.init=FOLDER, "
                "or model.architecture and model.tokenizer for a model from scratch"
            )
        _check_architecture(section.architecture)
        tokenizer = load_tokenizer(section.tokenizer)
        text = dict(section.architecture.get("text_config", {}))
        text |= {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
        text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        model = ClipVipModel(_scratch_config({**section.architecture, "text_config": text}, options))
    else:
        if section.architecture is not None:
            raise ConfigError("model.architecture is for a model from scratch, but model.init is set: give one of them")
        model = _initialised(section, options)
        tokenizer = load_tokenizer(section.tokenizer or section.init)
    if section.logit_scale is not None:
        with torch.no_grad():
            model.logit_scale.fill_(section.logit_scale)
    mean, std = (CLIP_MEAN, CLIP_STD) if section.init is None else image_colours(section.init)
    cleaning: str = section.text_cleaning or ("none" if section.init is None else stored_text_cleaning(section.init))
    processor = ClipVipProcessor(
        tokenizer,
        image_mean=mean,
        image_std=std,
        num_frames=section.num_frames,
        image_size=model.config.vision_config.image_size,
        resize=section.resize,
        resize_in=section.resize_in,
        max_text_tokens=section.max_text_tokens,
        text_cleaning=cleaning,
    )
    processor.check_fits(section.tokenizer or section.init or "", model.config)
    return model, processor


def _check_architecture(architecture: dict[str, Any]) -> None:
    """Raises: ConfigError for a key that nothing would read."""
    by_tokenizer = {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}
    known: dict[str, set[str]] = {
        "": {"text_config", "vision_config", "projection_dim", "initializer_factor"},
        "text_config": set(TOWER_KEYS_READ["text_config"]) - by_tokenizer,
        "vision_config": set(TOWER_KEYS_READ["vision_config"]),
    }
    for section, names in known.items():
        for key in architecture.get(section, {}) if section else architecture:
            if key not in names:
                near = difflib.get_close_matches(key, names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(names))}"
                hint = "; it is the tokeniser's" if section and key in by_tokenizer else hint
                raise ConfigError(f"model.architecture{'.' + section if section else ''}: unknown key {key!r}{hint}")


def _scratch_config(architecture: dict[str, Any], options: dict[str, Any]) -> ClipVipConfig:
    """The configuration of a model from scratch. Raises: ConfigError for values of a wrong type."""
    try:
        return ClipVipConfig(**architecture, **options)
    except StrictDataclassError as error:
        raise ConfigError(f"model.architecture: {' '.join(str(error).split())}") from None


def _initialised(section: ModelSection, options: dict[str, Any]) -> ClipVipModel:
    """Image-text weights become a new video model; a video model goes on as it is."""
    assert section.init is not None
    config = read_config(section.init)
    if not isinstance(config, ClipVipConfig) or config.aggregator != section.aggregator:
        return ClipVipModel.from_clip(section.init, **options)
    for key in ("num_proxies", "num_temporal_layers"):
        if options.get(key, getattr(config, key)) != getattr(config, key):
            raise ConfigError(f"model.{key}={options[key]}, but {section.init} was trained with {getattr(config, key)}")
    return load_strictly(ClipVipModel, section.init)
