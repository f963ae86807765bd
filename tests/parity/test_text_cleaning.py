"""Ids of awkward captions against a tokeniser written as OpenAI's is: repair, unescape, collapse, lowercase, BPE."""

from __future__ import annotations

import html
import itertools
import json

import ftfy
import numpy as np
import pytest
import regex
from transformers import CLIPTokenizer

from clipvip.model import ClipVipProcessor
from clipvip.model.tokenizer import train_clip_tokenizer

SENTENCE = """a man's dog doesn't catch the frisbee and it's "great", she said: i'll go to café no. 12 at 50% off by
naïve people <b>bold</b> tom & jerry über straße 100€ fast-paced re-run éclair 3rd"""
WORDS = SENTENCE.split()
AWKWARD = (
    "“{}”", "‘{}’", "it’s {}", "{} &amp; {}", "&lt;b&gt;{}&lt;/b&gt;", "&amp;lt;{}&amp;gt;", "{}  {}", "{}\u00a0{}",
    "{}\t{}\n{}", "  {} ", "{} 😀🎬", "{} … {}", "{}—{}", "&quot;{}&#39;", "ＦＵＬＬ {}", "ﬁne {}", "{} \u200b {}",
    "{}\u2028{}", "{} &hearts; {}", "<3 {} &nbsp; {}",
)  # fmt: skip


def awkward_captions() -> list[str]:
    """200 of them: every pattern with drawn words, every third one as mojibake."""
    rng = np.random.default_rng(0)
    captions = []
    for number, pattern in zip(range(200), itertools.cycle(AWKWARD), strict=False):
        words = [" ".join(rng.choice(WORDS, 3)) for _ in range(pattern.count("{}"))]
        caption = pattern.format(*words)
        if number % 3 == 2:  # UTF-8 that was read as Windows-1252
            caption = caption.encode("utf-8").decode("sloppy-windows-1252")
        captions.append(caption.upper() if number % 7 == 6 else caption)
    return captions


class OpenAITokenizer:
    """Byte-level BPE by a table of merges, with the cleaning and the splitting of OpenAI's code."""

    def __init__(self, tokenizer: CLIPTokenizer):
        merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
        self.ranks = {tuple(merge): rank for rank, merge in enumerate(merges)}
        self.vocabulary = tokenizer.get_vocab()
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in printable]
        self.letters = {byte: chr(byte) for byte in printable} | {b: chr(256 + n) for n, b in enumerate(others)}

    def ids(self, text: str) -> list[int]:
        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        text = regex.sub(r"\s+", " ", text).strip().lower()
        words = regex.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", text)
        return [self.vocabulary[part] for word in words for part in self.parts(word)]

    def parts(self, word: str) -> list[str]:
        parts = [self.letters[byte] for byte in word.encode("utf-8")]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            at = pairs.index(best)
            parts[at : at + 2] = ["".join(best)]
        return parts


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return train_clip_tokenizer([" ".join(WORDS), *WORDS, "amp lt gt quot hearts"], vocab_size=700)


def ids_of(processor: ClipVipProcessor, text: str) -> list[int]:
    """Without start and end."""
    tokens = processor.tokenize([text])
    return tokens["input_ids"][0].tolist()[1:-1]


def test_cleaned_texts_have_the_ids_of_openais_tokeniser(tokenizer: CLIPTokenizer) -> None:
    """Catches a step of the cleaning that is left out or in another order: other ids for a sixth of such captions."""
    oracle = OpenAITokenizer(tokenizer)
    cleaned = ClipVipProcessor(tokenizer, max_text_tokens=200, text_cleaning="openai")
    plain = ClipVipProcessor(tokenizer, max_text_tokens=200)
    captions = awkward_captions()
    assert len(captions) == 200
    for caption in captions:
        assert ids_of(cleaned, caption) == oracle.ids(caption), caption
    num_others = sum(ids_of(plain, caption) != oracle.ids(caption) for caption in captions)
    assert num_others > 34, "the captions are not awkward enough to show the difference"


@pytest.mark.parametrize("cleaning", ["none", "openai"])
@pytest.mark.parametrize("token", ["<|endoftext|>", "<|startoftext|>", "<|ENDOFTEXT|>"])
def test_a_special_token_in_a_caption_is_ordinary_text(token: str, cleaning: str, tokenizer: CLIPTokenizer) -> None:
    """Catches a caption that ends where somebody wrote the end token into it: the rest would not be read."""
    processor = ClipVipProcessor(tokenizer, text_cleaning=cleaning)
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    tokens = processor.tokenize([f"a dog {token} and a frisbee", "a dog"])
    for row, mask in zip(tokens["input_ids"].tolist(), tokens["attention_mask"].tolist(), strict=True):
        length = sum(mask)
        assert (row[0], row[length - 1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert special.isdisjoint(row[1 : length - 1])
