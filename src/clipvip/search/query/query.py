"""What can be asked of a library, terms (text, image, clip, segment, vector) with weights and filters; and its answers.

Shapes: E embedding size.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from clipvip.errors import UsageError

if TYPE_CHECKING:
    import pandas

StrPath: TypeAlias = str | Path
VideoPart: TypeAlias = StrPath | tuple[StrPath, float, float]
"""A video file, or the part of it from start_s to end_s."""

_SOURCES = ("text", "image", "video", "segment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One thing to look for. Exactly one of text, image (a file), video (a file, or a part of it) and segment (an id
    of the library); or a vector alone.

    vector: unit norm, float32 [E]. Beside a text, image or video it is that one's embedding, known already.
    weight: negative for what the answers should not look like.
    Raises: UsageError if there is no such thing, or more than one; for a weight of 0, NaN or infinity.
    """

    text: str | None = None
    image: StrPath | None = None
    video: VideoPart | None = None
    segment: str | None = None
    vector: np.ndarray | None = field(default=None, compare=False)
    weight: float = 1.0

    def __post_init__(self) -> None:
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) > 1 or (not given and self.vector is None):
            raise UsageError(
                f"a term of a query is one of {', '.join(_SOURCES)} and vector, not {' and '.join(given) or 'nothing'}"
            )
        if self.text is not None and not self.text.strip():
            raise UsageError("the query is empty: say what to look for")
        try:
            (self.text or "").encode()
        except UnicodeEncodeError:
            raise UsageError(f"the query {self.text!r} is not valid UTF-8; write it again") from None
        if not math.isfinite(self.weight) or self.weight == 0:
            raise UsageError(f"weight {self.weight:g}: choose a number, negative for what answers should not look like")

    def __str__(self) -> str:
        """As a person would name it."""
        if isinstance(self.video, tuple):
            path, start_s, end_s = self.video
            return f"{os.fspath(path)} from {start_s:g} to {end_s:g} s"
        source = self.text or self.image or self.video or self.segment or "a vector"
        return os.fspath(source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which videos may answer; what is None does not matter.

    path: a pattern for the path below its root. `*` and `?` stay within a name, `**` is any number of folders, `[ab]`
    one of these; without a slash it is for the file's name alone, in whatever folder. root: a folder that was indexed.
    after, before: the file was last modified at that time or later, or before it; a date stands for its first moment,
    in local time. min_duration_s, max_duration_s: of the whole video, both included.
    """

    path: str | None = None
    root: StrPath | None = None
    after: date | datetime | None = None
    before: date | datetime | None = None
    min_duration_s: float | None = None
    max_duration_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A search. Its vector is the weighted sum of the terms' unit vectors, made unit norm.

    k, offset: how many answers, and how many better ones to pass over. per_video: the best of each video only.
    merge: near-by windows of a video that answer equally well are one answer (see `merge`).
    false_alarm: the rate at which a query for something that is not in the library may still be answered; above it,
    `Results.found` is False. rescore: "qbnorm", against videos that are near to every query. exact: never the
    approximate index.
    Raises: UsageError for values that make no sense.
    """

    terms: tuple[Term, ...]
    filters: Filters = Filters()
    k: int = 10
    offset: int = 0
    per_video: bool = False
    merge: bool = True
    false_alarm: float | None = None
    rescore: Literal["qbnorm"] | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        if not self.terms:
            raise UsageError("the query is empty: say what to look for")
        if self.k < 1 or self.offset < 0:
            raise UsageError(f"k={self.k}, offset={self.offset}: k starts at 1, an offset at 0")
        if self.false_alarm is not None and not 0 < self.false_alarm < 1:
            raise UsageError(f"false_alarm={self.false_alarm:g}: a rate between 0 and 1, such as 0.05")
        if self.false_alarm is not None and any(term.text is None for term in self.terms if term.weight > 0):
            raise UsageError(
                "a rate of false alarms is for texts: images, clips and segments have no background queries; leave "
                "false_alarm out"
            )
        if self.rescore not in (None, "qbnorm"):
            raise UsageError(f"rescore={self.rescore!r}: choose qbnorm, or leave it out")

    def __str__(self) -> str:
        """As a person would write it: "a dog, not night"."""
        return ", ".join(f"not {term}" if term.weight < 0 else str(term) for term in self.terms)


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer: a part of a video.

    rank counts from 1 (and goes on over pages). score: cosine similarity of the best segment in it, or what re-scoring
    made of it. segment_id: that segment; start_s and end_s may span more than it if windows were merged.
    """

    rank: int
    score: float
    video: Path
    start_s: float
    end_s: float
    segment_id: str
    video_id: str


@dataclass(frozen=True, slots=True)
class Results:
    """Answers, best first; iterating gives the hits.

    found: False if there are no hits, or none that passes the false-alarm rate that was asked for (they are there all
    the same).
    p_value: how often a query for something that is not in the library has a best answer this good; None unless asked.
    """

    hits: tuple[Hit, ...]
    found: bool = True
    p_value: float | None = None

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per hit, one column per field."""
        import pandas

        return pandas.DataFrame([asdict(hit) for hit in self.hits], columns=[field.name for field in fields(Hit)])
