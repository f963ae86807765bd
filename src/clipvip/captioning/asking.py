"""How the kinds of Hugging Face models are asked what an image shows.

B images, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

from clipvip.captioning.captioner import PLAIN
from clipvip.errors import CheckpointError


class Question(NamedTuple):
    """What `generate` takes, and how many tokens [B, N] of its answer repeat the question."""

    inputs: dict[str, Any]
    repeated: int


class PlainAsker:
    """From images to questions for `PLAIN` models. beginning: of all captions, for BLIP and GIT."""

    def __init__(self, kind: str, source: str, place: dict[str, str], beginning: str | None):
        self.tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **place)
        # Pillow's pixels, as the models were trained on, whether or not torchvision is installed
        self._processor = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False, **place)
        self._tokens: dict[str, Tensor] = {}  # [1, N]
        self._repeated = 0
        if beginning:
            tokens = self.tokenizer(beginning, return_tensors="pt")  # between BERT's start and its end
            self._repeated = tokens["input_ids"].shape[1] - 1
            kept = None if kind == "blip" else -1  # BLIP's own generate takes the end off
            self._tokens = {name: tokens[name][:, :kept] for name in ("input_ids", "attention_mask")}

    def prepared(self, image: np.ndarray) -> Tensor:
        """Pixels [1, 3, S, S] of one image [H, W, 3]; in a thread, while the model is busy with others."""
        pixels: Tensor = self._processor(images=Image.fromarray(image), return_tensors="pt")["pixel_values"]
        return pixels

    def question(self, batch: Sequence[Tensor]) -> Question:
        """Pixels, and the beginning for each of them."""
        tokens = {name: value.repeat(len(batch), 1) for name, value in self._tokens.items()}
        return Question({"pixel_values": torch.cat(list(batch)), **tokens}, self._repeated)


class ChatAsker:
    """From images to questions for models that chat about images.

    Raises: CheckpointError for a model without a chat template.
    """

    def __init__(self, kind: str, source: str, place: dict[str, str], prompt: str, encodes: bool):
        self._processor = AutoProcessor.from_pretrained(source, trust_remote_code=False, **place)
        self._prompt, self._encodes = prompt, encodes
        if not getattr(self._processor, "chat_template", None):
            raise CheckpointError(
                f"{source}: a {kind} model without chat template; captioners are {', '.join(PLAIN)} models and those "
                "that one can chat with"
            )
        self.tokenizer = self._processor.tokenizer
        self.tokenizer.padding_side = "left"  # the answer follows the question at once

    def prepared(self, image: np.ndarray) -> Image.Image:
        """As it is: how many tokens an image gets may depend on the others."""
        return Image.fromarray(image)

    def question(self, batch: Sequence[Image.Image]) -> Question:
        """A conversation for each image."""
        conversations = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": self._prompt}]}]
            for image in batch
        ]
        inputs = self._processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        return Question(dict(inputs), 0 if self._encodes else inputs["input_ids"].shape[1])


Asker: TypeAlias = PlainAsker | ChatAsker


def special_tokens(model: Any, tokenizer: Any) -> dict[str, int | list[int]]:
    """Start, end and padding for `generate`, from wherever a model's files say them.

    Raises: LookupError if there is no token to start with.
    """
    config, generation = model.config, model.generation_config
    if config.model_type == "blip":
        return {}  # its generate sets them itself
    decoder = config.get_text_config(decoder=True)

    def first(*ids: Any) -> Any:
        return next((id_ for id_ in ids if id_ is not None), None)

    end = first(generation.eos_token_id, decoder.eos_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id)
    an_end = end[0] if isinstance(end, list) and end else end
    found = {
        "eos_token_id": end,
        "pad_token_id": first(generation.pad_token_id, decoder.pad_token_id, tokenizer.pad_token_id, an_end),
    }
    if config.model_type in PLAIN:
        start = first(
            generation.decoder_start_token_id,
            getattr(config, "decoder_start_token_id", None),
            generation.bos_token_id,
            decoder.bos_token_id,
            tokenizer.bos_token_id,
            tokenizer.cls_token_id,
        )
        if start is None:
            raise LookupError("no token to start a caption with (bos or cls)")
        found["decoder_start_token_id" if config.is_encoder_decoder else "bos_token_id"] = start
    return {name: value for name, value in found.items() if value is not None}
