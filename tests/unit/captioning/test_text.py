"""Cleaning: what models say in passing, and what must come out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipvip.captioning import clean_caption


@pytest.mark.parametrize(
    ("said", "caption"),
    [
        ("a dog on the grass", "a dog on the grass"),
        ("  a dog\t on   the grass \n", "a dog on the grass"),
        ("A dog runs.", "A dog runs."),
        # repeats
        ("a dog a dog a dog", "a dog"),
        ("a dog, a dog, A dog", "a dog"),
        ("the the cat", "the cat"),
        ("red red red red", "red"),
        ("a man and a woman and a man", "a man and a woman and a man"),
        ("two dogs in the snow in the snow in", "two dogs in the snow in"),
        # length
        (" ".join(map(str, range(20))), " ".join(map(str, range(16)))),
        (" ".join([*"abcdefghijklmno", "last,", "word"]), "a b c d e f g h i j k l m n o last"),
        # chat models
        ("Caption: a cat", "a cat"),
        ("**Caption:** *A cat* sleeps", "A cat sleeps"),
        ('Sure! Here\'s a short caption for the image:\n\n"A cat sleeps on a sofa."', "A cat sleeps on a sofa."),
        ("Here is a one-sentence description: A cat.", "A cat."),
        ("Certainly, the image shows a cat", "a cat"),
        ("The image shows a cat", "a cat"),
        ("In this picture, two cats fight", "two cats fight"),
        ("“A cat sleeps”.", "A cat sleeps"),
        ("1. A cat\n2. A kitten", "A cat"),
        ("- A cat", "A cat"),
        ("### Description: `A cat`", "A cat"),
        ("<think>The user wants a caption: hm.</think>\n\nA cat", "A cat"),
        ("what the template opened </think> A cat", "A cat"),
        # these only look alike
        ("a sign that says caption: none", "a sign that says caption: none"),
        ('"Stop" is written on a sign', '"Stop" is written on a sign'),
        ("a picture of a dog", "a picture of a dog"),
        ("dogs' bowls", "dogs' bowls"),
        ("24 candles on a cake", "24 candles on a cake"),
        # nothing
        ("", ""),
        (" \n\t ", ""),
        ("...", ""),
        ("Caption:", ""),
        ("<think>I was still thinking when", ""),
        ("\ufffd\ufffd", ""),
        # not fit for a file
        ("a\x00 dog\ud83d runs\u2028fast", "a dog runs"),
        ("ein Mädchen läuft", "ein Mädchen läuft"),
        ("一只猫在睡觉", "一只猫在睡觉"),
    ],
)
def test_examples(said: str, caption: str) -> None:
    """Catches repeats, prefaces and over-long captions that reach the training texts, and words lost for nothing."""
    assert clean_caption(said, 16) == caption


WORD = st.sampled_from(["a", "dog", "Dog,", "and", "Caption:", '"', "The image shows", "\n", "1.", "…", "é", "**"])


@given(st.one_of(st.text(), st.lists(WORD, max_size=30).map(" ".join)), st.integers(1, 20))
def test_properties(said: str, max_words: int) -> None:
    """Catches any text that gives two lines, too many words, a word twice in a row or no word at all."""
    caption = clean_caption(said, max_words)
    assert caption == "" or any(letter.isalnum() for letter in caption)
    assert len(caption.split()) <= max_words
    assert len(caption.splitlines()) <= 1
    assert caption == " ".join(caption.split())
    words = [word.casefold() for word in caption.split()]
    assert all(first != second for first, second in itertools.pairwise(words))
    caption.encode()


def test_a_model_that_does_not_stop() -> None:
    """Catches minutes spent on looking for repeats in megabytes."""
    assert clean_caption("no " * 10**6, 16) == "no"
    assert len(clean_caption(" ".join(map(str, range(10**5))), 16).split()) == 16
