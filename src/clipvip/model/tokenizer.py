"""Tokenisers: one read from a model folder without transformers, and a CLIP-style one trained from scratch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from clipvip.files import parse_json

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

END_OF_WORD = "</w>"
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


class FolderTokenizer:
    """A CLIP tokeniser that is read with the tokenizers library alone; `read_folder_tokenizer` makes it.

    It has those of the attributes of transformers' tokenisers that `ClipVipProcessor` and `Encoder` use.
    """

    def __init__(self, backend: Tokenizer, settings: dict[str, Any]):
        self.backend_tokenizer = backend
        self.settings = settings
        self.eos_token_id: Any = backend.token_to_id(settings["eos_token"])
        self.pad_token_id: Any = backend.token_to_id(settings["pad_token"])

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write it into a folder, as transformers does."""
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.save(str(Path(folder) / "tokenizer.json"))
        text = json.dumps(self.settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (Path(folder) / "tokenizer_config.json").write_text(text, encoding="utf-8")


def read_folder_tokenizer(folder: Path) -> FolderTokenizer | None:
    """The tokeniser of a folder, if its files are those that transformers' CLIPTokenizer writes; None otherwise.

    transformers builds a CLIPTokenizer again from its vocabulary, so that other normalisers, special tokens or added
    tokens in the files count for something else there, or for nothing: such folders are left to transformers.
    """
    try:
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        stored, settings = parse_json(text), parse_json((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        start, end = settings["bos_token"], settings["eos_token"]
        expected = {
            "added_tokens": [_special_token(stored, token) for token in (start, end)],
            "normalizer": _NORMALIZER,
            "pre_tokenizer": _pre_tokenizer(start, end),
            "post_processor": {
                "type": "RobertaProcessing",
                "sep": [end, stored["model"]["vocab"][end]],
                "cls": [start, stored["model"]["vocab"][start]],
                "trim_offsets": False,
                "add_prefix_space": False,
            },
        }
        usual = (
            all(stored[name] == value for name, value in expected.items())
            and stored["model"]["type"] == "BPE"
            and settings["tokenizer_class"] in ("CLIPTokenizer", "CLIPTokenizerFast")
            and settings.keys() <= _KNOWN_SETTINGS
            and settings["pad_token"] in (start, end)
            and settings.get("unk_token", end) in (start, end)
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    if not usual or any((folder / name).exists() for name in _OTHER_FILES):
        return None
    return FolderTokenizer(Tokenizer.from_str(text), settings)


_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
        {"type": "Lowercase"},
    ],
}
_KNOWN_SETTINGS = {
    "backend", "bos_token", "clean_up_tokenization_spaces", "eos_token", "errors", "is_local", "local_files_only",
    "max_length", "model_max_length", "name_or_path", "pad_to_multiple_of", "pad_token", "pad_token_type_id",
    "padding_side", "processor_class", "stride", "tokenizer_class", "truncation_side", "truncation_strategy",
    "unk_token",
}  # fmt: skip
"""Keys of `tokenizer_config.json` that change no token of a CLIPTokenizer."""
_OTHER_FILES = ("special_tokens_map.json", "added_tokens.json")
"""Files of older folders, which transformers reads as well."""


def _pre_tokenizer(start: str, end: str) -> dict[str, Any]:
    special = "|".join(token.replace("|", "\\|") for token in (start, end))
    words = special + r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    }


def _special_token(stored: dict[str, Any], token: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": stored["model"]["vocab"][token], "content": token, **flags}


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
