"""What a recipe names, made: the model and its processor, the clips to train on and the order of their batches."""

from __future__ import annotations

import difflib
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import DataLoader

from clipvip import distributed
from clipvip.data import (
    Address,
    Batch,
    ClipDataset,
    Collator,
    PassSampler,
    Sources,
    make_loader,
    open_clips,
    steps_per_pass,
)
from clipvip.errors import ConfigError, VideoDecodeError
from clipvip.losses import inputs_of
from clipvip.model import ClipVipConfig, ClipVipModel, ClipVipProcessor
from clipvip.model.configuration_clipvip import TOWER_KEYS_READ
from clipvip.model.hub import load_tokenizer, read_config
from clipvip.model.pretrained import load_strictly
from clipvip.model.processing_clipvip import image_colours, stored_text_cleaning
from clipvip.training.config import MixSection, ModelSection, Recipe
from clipvip.video import probe
from clipvip.video.transforms import CLIP_MEAN, CLIP_STD

FEW_CLIPS = 32
"""Enough to know how long clips are. The first ones: of a set of shards they are in one."""


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


def make_datasets(recipe: Recipe, decoder_size: tuple[int, int] | int | None) -> list[ClipDataset]:
    """The main source and those of `data.mix`. decoder_size: the processor's. Raises: ManifestError."""
    data, inputs = recipe.data, inputs_of(recipe.loss.variant)
    main = MixSection(
        data=data.train, share=0.5, videos=data.videos, split=data.train_split, subtitle=data.subtitle,
        caption="caption", join_captions=data.join_captions,
    )  # fmt: skip
    return [
        ClipDataset(
            open_clips(source.data, videos=source.videos, split=source.split),
            num_frames=recipe.model.num_frames,
            sources=Sources(
                source.subtitle,
                source.caption if "caption" in inputs else None,
                "frame" in inputs,
                source.join_captions,
            ),
            seed=recipe.train.seed,
            jitter=data.jitter,
            decoder_size=decoder_size,
            cache=data.cache,
        )
        for source in (main, *data.mix)
    ]


def number_of_steps(recipe: Recipe, num_main_clips: int) -> int:
    """Optimiser steps of the run; `epochs` counts passes over the main source."""
    train = recipe.train
    if train.epochs is None:
        assert train.steps is not None  # checked by the recipe
        return train.steps
    own_share = 1 - sum(source.share for source in recipe.data.mix)
    if recipe.data.last_batch == "keep":  # as released: every clip counts, and the last step need not end a pass
        return max(1, math.ceil(train.epochs * num_main_clips / train.batch_size / own_share - 1e-9))
    return max(1, round(train.epochs * steps_per_pass(num_main_clips, train.batch_size) / own_share))


def usual_duration_s(dataset: ClipDataset) -> float | None:
    """How long its videos are: the median of the first ones. None if there are none, or none has one."""
    durations_s = []
    for index in range(min(FEW_CLIPS, len(dataset))):
        clip, media = dataset.clips.load(index)
        if clip.video is None or isinstance(media, list):  # pictures, one by one, have no times
            continue
        start_s, end_s = clip.time_range or (0.0, math.inf)
        try:
            whole_s = probe(media).duration_s if math.isinf(end_s) else end_s
        except VideoDecodeError:
            continue  # data.on_decode_error decides what follows, when the clip is trained on
        if whole_s is not None and whole_s > start_s:
            durations_s.append(whole_s - start_s)
    return round(statistics.median(durations_s), 3) if durations_s else None


def make_sampler(recipe: Recipe, datasets: Sequence[ClipDataset], num_steps: int, start_step: int) -> PassSampler:
    """The clips of this process's share of each step to come."""
    return PassSampler(
        datasets, recipe.train.batch_size, num_steps, seed=recipe.train.seed, start_step=start_step,
        shares=[source.share for source in recipe.data.mix],
        rank=distributed.rank(), world=distributed.world(), keep_last=recipe.data.last_batch == "keep",
    )  # fmt: skip


def load_batches(
    recipe: Recipe,
    datasets: Sequence[ClipDataset],
    processor: ClipVipProcessor,
    order: Iterable[list[Address]],
    *,
    pin_memory: bool,
) -> DataLoader[Batch]:
    """Batches of the clips that `order` names, on the CPU."""
    collator = Collator(
        processor.tokenize, processor.frames_to_pixels, processor.image_size, processor.resize, datasets[0].sources
    )
    return make_loader(datasets, order, collator, num_workers=recipe.data.num_workers, pin_memory=pin_memory)
