"""What a search answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas


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
        """One row a hit, one column a field."""
        import pandas

        return pandas.DataFrame([asdict(hit) for hit in self.hits], columns=[field.name for field in fields(Hit)])
