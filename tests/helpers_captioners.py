"""Captioners for tests: one that reads grey levels, and tiny random models of every kind, saved as folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.captioning import Described, Undescribed
from clipvip.captioning.captioner import Answer

WORDS = (
    "a red circle on the grass blue square jumps at night dog plays with ball in snow user assistant describe image : ."
)
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
PIXELS = {"height": 32, "width": 32}


@dataclass(frozen=True)
class GreyReader:
    """Says which frame of `helpers_shards.write_greys` it sees. silent_on: frames that it has no words for.

    trace: gets a line for every image that it saw.
    """

    silent_on: tuple[int, ...] = ()
    trace: Path | None = None
    name: str = "grey-reader"
    revision: str = "1"
    max_words: int = 16
    silence_s: float = 10.0

    def settings(self) -> dict[str, Any]:
        """The name and the revision."""
        return {"name": self.name, "revision": self.revision}

    def open(self) -> GreyReader:
        """Itself."""
        return self

    def caption(self, images: Iterable[np.ndarray]) -> Iterator[Answer]:
        """A number each; two of them are no caption."""
        from helpers_shards import numbers

        for image in images:
            (number,) = numbers([image])
            if self.trace is not None:
                with self.trace.open("a") as trace:
                    trace.write(f"{number}\n")
            if number in self.silent_on:
                yield Undescribed("no words") if number % 2 else Described("...", self.revision)
            else:
                yield Described(f"frame {number}", self.revision)


def write_blip(folder: Path) -> Path:
    """BLIP: its own tokens for the start, BERT's for the end."""
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil

    tokenizer = _bert_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    text = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "encoder_hidden_size": 32,
        "max_position_embeddings": 96,
    }
    config = BlipConfig(
        text_config={**SIZES, **text}, vision_config={**SIZES, "image_size": 32, "patch_size": 16}, projection_dim=16
    )
    return _save(folder, lambda: BlipForConditionalGeneration(config), tokenizer, BlipImageProcessorPil(size=PIXELS))


def write_git(folder: Path) -> Path:
    """GIT: one decoder for pictures and words."""
    from transformers import CLIPImageProcessorPil, GitConfig, GitForCausalLM

    tokenizer = _bert_tokenizer()
    config = GitConfig(
        vision_config={**SIZES, "image_size": 32, "patch_size": 16},
        **SIZES,
        vocab_size=len(tokenizer),
        max_position_embeddings=96,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=PIXELS)
    return _save(folder, lambda: GitForCausalLM(config), tokenizer, pictures)


def write_encoder_decoder(folder: Path, positions: int = 96, says_tokens: bool = True) -> Path:
    """A ViT that a GPT-2 listens to. says_tokens: whether its files tell the tokens to start and end with."""
    from transformers import (
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessorPil,
    )

    tokenizer = _word_tokenizer()
    decoder = GPT2Config(
        n_embd=32, n_head=2, n_layer=1, n_positions=positions, vocab_size=len(tokenizer), add_cross_attention=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(**SIZES, image_size=32, patch_size=16), decoder
    )
    if says_tokens:
        config.decoder_start_token_id = tokenizer.bos_token_id
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    return _save(folder, lambda: VisionEncoderDecoderModel(config), tokenizer, ViTImageProcessorPil(size=PIXELS))


def write_chat(folder: Path, template: bool = True) -> Path:
    """LLaVA: a CLIP tower and a Llama that one talks to."""
    from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = _word_tokenizer("<image>")
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **SIZES, "image_size": 32, "patch_size": 16},
        text_config={
            "model_type": "llama", **SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 128,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )  # fmt: skip
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=PIXELS),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE if template else None,
    )
    return _save(folder, lambda: LlavaForConditionalGeneration(config), processor)


TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
KINDS: dict[str, Callable[[Path], Path]] = {
    "blip": write_blip,
    "git": write_git,
    "encoder-decoder": write_encoder_decoder,
    "chat": write_chat,
}


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    """Coarse noise, uint8 [48, 64, 3] each."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(count)]


def _bert_tokenizer() -> Any:
    from transformers import BertTokenizer

    letters = sorted(set(WORDS) - {" "})
    symbols = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters), *WORDS.split()]
    return BertTokenizer(vocab={symbol: i for i, symbol in enumerate(dict.fromkeys(symbols))})


def _word_tokenizer(*special: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = dict.fromkeys(["<pad>", "<unk>", "<s>", "</s>", *special, *WORDS.split()])
    raw = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(symbols)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=list(special),
    )  # fmt: skip


def _save(folder: Path, make: Callable[[], Any], *others: Any) -> Path:
    """With weights so large that captions hang on the picture, which those of a fresh model hardly do."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
    for other in others:
        other.save_pretrained(folder)
    return folder
