"""The processor of a converted model: the tokeniser must be named, how its format treats pixels is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipvip.checkpoints.convert import Converted
from clipvip.errors import CheckpointError, UsageError
from clipvip.model import ClipVipProcessor
from clipvip.model.hub import load_tokenizer, why_unusable
from clipvip.model.processing_clipvip import image_processor_settings

RELEASED_TEXT_TOKENS = 70


def check_has_tokenizer(source: str | Path, tokenizer_source: str | Path | None) -> None:
    """Raises: UsageError if no tokeniser is named and `source` is a file, which cannot have one."""
    if tokenizer_source is None and Path(source).is_file():
        raise UsageError(
            f"{source} is a file, which has no tokeniser: name a folder or hub id that does with --processor, "
            "for instance openai/clip-vit-base-patch32"
        )


def processor_for(
    converted: Converted,
    source: str | Path,
    tokenizer_source: str | Path | None = None,
    *,
    text_cleaning: str | None = None,
) -> ClipVipProcessor:
    """The processor for a model that `read_checkpoint` read from `source`.

    tokenizer_source: folder or hub id of a tokeniser; None: `source` itself, which then must not be a file. If it is
    plain CLIP, its mean and std count too, unless `source` has its own; of a clipvip folder only the tokeniser does.
    Released weights: squash, no antialias, T frames, at most 70 tokens. Plain CLIP: crop, antialias, all positions. A
    clipvip folder: its own processor.
    text_cleaning: None: "openai" for OpenAI's and open_clip's files, whose weights were trained with such a tokeniser;
    "none" for released files, which were trained with transformers', and for Hugging Face folders, which do not say.
    Raises: UsageError without a tokeniser; CheckpointError if there is none there, or not the model's.
    """
    check_has_tokenizer(source, tokenizer_source)
    config = converted.model.config
    if converted.report.format == "clipvip":
        processor = _own_processor(source)
        if tokenizer_source is not None:
            processor.tokenizer = load_tokenizer(tokenizer_source)
        processor.image_size = config.vision.image_size
    else:
        released = converted.report.format == "released"
        place = source if tokenizer_source is None else tokenizer_source
        tokenizer, positions = load_tokenizer(place), config.text.max_position_embeddings
        processor = ClipVipProcessor(
            tokenizer,
            num_frames=config.num_frames,
            image_size=config.vision.image_size,
            resize="squash" if released else "crop",
            resize_in="tensor",
            antialias=not released,
            text_cleaning="openai" if converted.report.format in ("openai", "open_clip") else "none",
            max_text_tokens=min(RELEASED_TEXT_TOKENS, positions) if released else positions,
            **({} if released else _mean_and_std(source) or _mean_and_std(place)),
        )
    if text_cleaning is not None:
        processor.text_cleaning = text_cleaning
    processor.check_fits(source if tokenizer_source is None else tokenizer_source, config)
    return processor


def _own_processor(source: str | Path) -> ClipVipProcessor:
    try:
        return ClipVipProcessor.from_pretrained(source)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{source}: no usable processor there: {why_unusable(error)}") from error


def _mean_and_std(source: str | Path) -> dict[str, Any]:
    """`image_mean` and `image_std` of a folder or hub id of plain CLIP; nothing if it has none, or is ours."""
    if Path(source).is_file():
        return {}
    settings = image_processor_settings(source)
    if settings.get("processor_class") == ClipVipProcessor.__name__:
        return {}
    return {key: settings[key] for key in ("image_mean", "image_std") if key in settings}
