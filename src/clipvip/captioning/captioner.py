"""What a captioner is, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

MAX_WORDS = 16
"""Of a caption. Source: CLIP-ViP, section 4.1."""
PROMPT = "Describe this image in one short sentence of at most {max_words} words. Answer with the sentence alone."
"""For models that one talks to; {max_words} is filled in."""
PLAIN = ("blip", "git", "vision-encoder-decoder")
"""Model types of Hugging Face that take an image and give a caption; all others are talked to."""
TOKENS_A_WORD = 4
"""What a model may spend: a caption that is cut at a word's first half cannot be mended."""


@dataclass(frozen=True, slots=True)
class Described:
    """The model's own words, not yet cleaned. revision: which weights said so, as far as can be known."""

    text: str
    revision: str


@dataclass(frozen=True, slots=True)
class Undescribed:
    """No caption for this image, and why."""

    reason: str


Answer: TypeAlias = Described | Undescribed


class Captioner(Protocol):
    """A model that is ready to describe images."""

    def caption(self, images: Iterable[np.ndarray]) -> Iterator[Answer]:
        """Of images uint8 [H, W, 3], in their order. They are read a little ahead, as many as suit the model.

        Raises: ClipVipError for what would befall all other images too.
        """


class CaptionerSettings(Protocol):
    """Which captioner, and how: a frozen record that travels to the workers.

    name: of the model, as it stands in manifests. max_words: of a caption. silence_s: how long it may take until the
    next caption (or batch of them) is there.
    """

    @property
    def name(self) -> str: ...

    @property
    def max_words(self) -> int: ...

    @property
    def silence_s(self) -> float: ...

    def __hash__(self) -> int: ...

    def settings(self) -> dict[str, Any]:
        """What captions depend on, ready for JSON."""

    def open(self) -> Captioner:
        """Load the model, or get ready to ask for it."""
