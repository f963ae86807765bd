"""A CLIP-style tokeniser from scratch, for worlds whose texts OpenAI's vocabulary was not made for."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

END_OF_WORD = "</w>"
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def train_clip_tokenizer(texts: Iterable[str], vocab_size: int = 1400) -> CLIPTokenizer:
    """Lower-casing byte-level BPE in CLIP's format, trained on `texts`.

    vocab_size: an upper bound, the 512 byte symbols and the two special tokens included. Ids are laid out as in
    OpenAI's vocabulary: bytes, bytes at a word's end, merges, start token, end token (the last id).
    """
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
