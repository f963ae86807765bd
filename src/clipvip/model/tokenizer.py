"""Tokenisers: one read from a model folder without transformers, and a CLIP-style one trained from scratch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from clipvip.errors import CheckpointError
from clipvip.files import parse_json

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

END_OF_WORD = "</w>"
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


class FolderTokenizer:
    """The tokeniser that transformers has saved in a folder, read with the tokenizers library alone.

    It has those of the attributes of transformers' tokenisers that `ClipVipProcessor` and `Encoder` use.
    """

    def __init__(self, folder: Path):
        """Raises: CheckpointError if `tokenizer.json` or `tokenizer_config.json` is missing or damaged."""
        try:
            self.backend_tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
            self.settings = parse_json((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            self.eos_token_id = self._special("eos_token")
            self.pad_token_id = self._special("pad_token")
        except Exception as error:  # the tokenizers library raises bare exceptions
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{folder}: no usable tokeniser there: {reason}") from error

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write it into a folder, as transformers does."""
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.save(str(Path(folder) / "tokenizer.json"))
        text = json.dumps(self.settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (Path(folder) / "tokenizer_config.json").write_text(text, encoding="utf-8")

    def _special(self, name: str) -> int:
        token: Any = self.settings.get(name, EOS)
        token = token["content"] if isinstance(token, dict) else token
        index = self.backend_tokenizer.token_to_id(token)
        if index is None:
            raise ValueError(f"its {name}, {token!r}, is not in the vocabulary")
        return index


def train_clip_tokenizer(texts: Iterable[str], vocab_size: int = 1400) -> CLIPTokenizer:
    """Lower-casing byte-level BPE in CLIP's format, trained on `texts`.

    vocab_size: an upper bound, the 512 byte symbols and the two special tokens included. Ids are laid out as in
    OpenAI's vocabulary: bytes, bytes at a word's end, merges, start token, end token (the last id).
    """
    from transformers import CLIPTokenizer

    pattern = CLIPTokenizer().backend_tokenizer  # normaliser and word splitting of CLIP
    bpe = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    bpe.normalizer, bpe.pre_tokenizer = pattern.normalizer, pattern.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = [*alphabet, *(letter + END_OF_WORD for letter in alphabet)]
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            # named here, the bytes get fixed ids; found by the trainer, ids (and so the order of merges that occur
            # equally often) would differ from process to process
            special_tokens=symbols,
            end_of_word_suffix=END_OF_WORD,
            show_progress=False,
        ),
    )
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    symbols += ["".join(merge) for merge in merges] + [BOS, EOS]
    vocab = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
