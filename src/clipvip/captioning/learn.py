"""A small image captioner of one's own, learnt from image-text pairs: for a world whose images no public model knows.

The loop is transformers' Trainer, for a captioner is transformers' model, not ours.

Shapes: N images of S x S pixels, B of a batch, L tokens.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    VisionEncoderDecoderModel,
)

from clipvip.errors import InputError, UsageError
from clipvip.jobs import prefetch
from clipvip.model import ClipVipModel
from clipvip.model.pretrained import load_strictly
from clipvip.model.quiet import without_bars
from clipvip.records import Clip
from clipvip.video import read_image

DECODER_LR, ENCODER_LR = 3e-3, 1e-3
WARMUP_STEPS = 50
_PAD, _START, _END, _UNKNOWN = "<pad>", "<start>", "<end>", "<unknown>"
_ONE_PHRASE = re.compile(r"[^\W\d_]+(?: [^\W\d_]+)*")
_LEFT_OR_RIGHT = re.compile(r"\b(?:left|right)\b")


def learn_captioner(
    clips: Iterable[Clip],
    vision: str | Path,
    out: Path,
    *,
    steps: int,
    batch_size: int = 128,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda count, total: None,
) -> int:
    """Train a VisionEncoderDecoder on images with captions, and write it to the folder `out`, where all of it is new.

    Of their texts only those of one phrase count, words and nothing else: a web page's texts have many forms, and a
    captioner shall have one. vision: a clipvip model of aggregator "mean", whose vision tower is the start.
    progress: is told (1, steps) after each step. Returns: the number of images that had such a text.
    Raises: InputError if no image has one; VideoDecodeError for an image that cannot be read; UsageError for another
    aggregator than "mean".
    """
    pairs = [(clip, text) for clip in clips for text in clip.captions if _ONE_PHRASE.fullmatch(text)]
    if not pairs:
        raise InputError("no image with a text of words alone: nothing to learn a captioner from")
    torch.manual_seed(seed)
    texts = [text for _, text in pairs]
    tokenizer = word_tokenizer(texts)
    start = load_strictly(ClipVipModel, vision)
    if start.config.aggregator != "mean":
        raise UsageError(f"{vision}: of aggregator {start.config.aggregator}; a captioner starts from one of mean")
    model = _new_model(start, tokenizer, max(len(ids) for ids in tokenizer(texts)["input_ids"]))
    size = start.config.vision_config.image_size
    processor = CLIPImageProcessorPil(size={"height": size, "width": size}, do_center_crop=False)
    images = torch.from_numpy(np.stack([*prefetch(lambda pair: _square(pair[0], size), pairs, ahead=64)]))
    new = [parameter for name, parameter in model.named_parameters() if not name.startswith("encoder.")]
    optimizer = torch.optim.AdamW(
        [{"params": new, "lr": DECODER_LR}, {"params": [*model.encoder.parameters()], "lr": ENCODER_LR}],
        betas=(0.9, 0.98),
        fused=True,
    )
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    trainer = Trainer(
        model,
        TrainingArguments(
            str(unfinished / "log"),
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            lr_scheduler_type="cosine",
            warmup_steps=min(WARMUP_STEPS, steps // 4),
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        ),
        _Collator(images, texts, tokenizer, processor),
        range(len(pairs)),
        optimizers=(optimizer, None),
        callbacks=[_Told(progress, steps)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    with without_bars():
        for part in (model, tokenizer, processor):
            part.save_pretrained(unfinished)
    shutil.rmtree(unfinished / "log", ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    unfinished.rename(out)
    return len({clip.clip_id for clip, _ in pairs})


def word_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokeniser of these texts' words, in lower case; it puts a start and an end around a text."""
    words = sorted({word for text in texts for word in text.lower().split()})
    vocabulary = {word: number for number, word in enumerate([_PAD, _START, _END, _UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}", special_tokens=[(token, vocabulary[token]) for token in (_START, _END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, bos_token=_START, eos_token=_END, unk_token=_UNKNOWN
    )


def _new_model(start: ClipVipModel, tokenizer: PreTrainedTokenizerFast, longest: int) -> VisionEncoderDecoderModel:
    """The vision tower of `start`, and two new layers that write texts of up to `longest` tokens."""
    vision = start.config.vision_config
    encoder = CLIPVisionModel(CLIPVisionConfig(**vision.to_dict()))
    encoder.load_state_dict(start.vision_model.state_dict())
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    decoder = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=longest,
            n_embd=vision.hidden_size,
            n_layer=2,
            n_head=vision.num_attention_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            activation_function="gelu",
            add_cross_attention=True,
            is_decoder=True,
            **special,
        )
    )
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = tokenizer.bos_token_id
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    return model


def _square(clip: Clip, size: int) -> np.ndarray:
    """Its image, uint8 [3, S, S]."""
    image = Image.fromarray(read_image(clip.path)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


class _Collator:
    """Numbers of images to a batch: pixels [B, 3, S, S], and labels [B, L] (padding: -100, as the loss has it).

    Every other image is mirrored, unless its text says left or right: the images are few.
    """

    def __init__(
        self, images: Tensor, texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, processor: CLIPImageProcessorPil
    ):
        self._images = images  # uint8 [N, 3, S, S]
        tokens = tokenizer(list(texts), padding=True, return_tensors="pt")
        mask = tokens["attention_mask"]
        self._known = mask[:, :-1]  # [N, L]
        self._labels = tokens["input_ids"][:, 1:].masked_fill(
            mask[:, 1:] == 0, -100
        )  # [N, L]; the model adds the start
        self._mirrored = torch.tensor([_LEFT_OR_RIGHT.search(text) is None for text in texts])  # [N]
        self._mean, self._std = (
            torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std)
        )

    def __call__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        rows = torch.tensor(numbers)
        pixels = (self._images[rows] / 255 - self._mean) / self._std
        mirrored = self._mirrored[rows] & (torch.rand(len(rows)) < 0.5)
        pixels[mirrored] = pixels[mirrored].flip(-1)
        return {"pixel_values": pixels, "labels": self._labels[rows], "decoder_attention_mask": self._known[rows]}


class _Told(TrainerCallback):
    """A step is told when it is done."""

    def __init__(self, progress: Callable[[int, int], None], steps: int):
        self._progress, self._steps = progress, steps

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._progress(1, self._steps)
