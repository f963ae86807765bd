"""The tokeniser made for a small world."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from clipvip.model.tokenizer import train_clip_tokenizer

TEXTS = ["the red circle grows", "a blue square!", "qx wz vk", "zw xq kv", "jh gf", "fg hj", "naïve, um"]


def test_same_texts_same_vocabulary() -> None:
    """Catches merges of equal frequency in an order that differs from run to run: two demos would then differ."""
    first, *others = (train_clip_tokenizer(TEXTS, vocab_size=545).get_vocab() for _ in range(4))
    assert all(first == other for other in others)


def test_layout_and_round_trip(tmp_path: Path) -> None:
    """Catches an end token that is not the last id, unknown characters, and ids that change on the way to disk."""
    tokenizer = train_clip_tokenizer(TEXTS, vocab_size=600)
    assert len(tokenizer) <= 600
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert tokenizer.bos_token_id == len(tokenizer) - 2
    texts = [*TEXTS, "words never seen 日本 €"]
    ids = tokenizer(texts)["input_ids"]
    assert all(row[0] == tokenizer.bos_token_id and row[-1] == tokenizer.eos_token_id for row in ids)
    assert tokenizer.eos_token_id not in ids[-1][:-1], "an unknown character became the end token"
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(texts)["input_ids"] == ids
