"""Scores of a library's segments against a query vector: what searches share, and the exact one, a product with all.

Shapes: N segments, n of them, E embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipvip.search.query.filters import Condition, mask

SAMPLE_ROWS = 10_000
"""Enough for the mean and spread of a query's scores."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Segments, best first, equal scores by segment_id.

    rows: a pyarrow table of `HIT_COLUMNS`; vectors: float32 [n, E]; scores: float32 [n].
    """

    rows: Any
    vectors: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


class Scan(Protocol):
    """The segments that may answer one query."""

    def top(self, m: int) -> Scored:
        """The best `m` of them, or all if there are no more."""

    def of_videos(self, video_ids: Sequence[str]) -> Scored:
        """All of these videos."""


class Segments(Protocol):
    """All segments of one version of a library."""

    @property
    def sample(self) -> np.ndarray:
        """The vectors of all, or of evenly spaced ones, float32 [n, E]: enough for a mean or a spread."""

    @cached_property
    def mean(self) -> np.ndarray:
        """That of the sample, float32 [E]; zeros if there are no segments."""
        sample = self.sample
        return sample.sum(axis=0, dtype=np.float64).astype(np.float32) / np.float32(max(len(sample), 1))

    def blocks(self, conditions: Sequence[Condition]) -> Iterator[np.ndarray]:
        """The vectors of those that meet the conditions, float32 [n, E] at a time."""

    def scan(self, vector: np.ndarray, conditions: Sequence[Condition]) -> Scan:
        """Score those that meet the conditions against a query vector float32 [E]."""


class ExactSegments(Segments):
    """Scores every segment. rows: a pyarrow table of `HIT_COLUMNS`; vectors: float32 [N, E], in the same order."""

    def __init__(self, rows: Any, vectors: np.ndarray):
        self.rows = rows
        self.vectors = vectors

    @cached_property
    def sample(self) -> np.ndarray:
        return np.asarray(self.vectors[:: -(-len(self.vectors) // SAMPLE_ROWS) or 1])

    def blocks(self, conditions: Sequence[Condition]) -> Iterator[np.ndarray]:
        allowed = mask(conditions, self.rows) if conditions else None
        for start in range(0, len(self.vectors), SAMPLE_ROWS):
            block = self.vectors[start : start + SAMPLE_ROWS]
            yield block if allowed is None else block[allowed[start : start + SAMPLE_ROWS]]

    def scan(self, vector: np.ndarray, conditions: Sequence[Condition]) -> Scan:
        allowed = mask(conditions, self.rows) if conditions else None
        return ExactScan(self, None if allowed is None else np.flatnonzero(allowed), self.vectors @ vector)

    @cached_property
    def by_video(self) -> tuple[dict[str, int], np.ndarray, np.ndarray]:
        """Numbers of the videos by id; rows ordered by these [N]; where those of each begin there [videos + 1]."""
        coded = self.rows["video_id"].combine_chunks().dictionary_encode()
        codes = coded.indices.to_numpy()
        numbers = {video_id: number for number, video_id in enumerate(coded.dictionary.to_pylist())}
        bounds = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(numbers)))])
        return numbers, np.argsort(codes, kind="stable"), bounds


class ExactScan:
    """allowed: numbers of the rows that may answer (None: all do); scores: float32 [N], of all rows."""

    def __init__(self, segments: ExactSegments, allowed: np.ndarray | None, scores: np.ndarray):
        self._segments = segments
        self._allowed = allowed
        self._scores = scores

    def top(self, m: int) -> Scored:
        scores = self._scores if self._allowed is None else self._scores[self._allowed]
        numbers = np.flatnonzero(scores >= np.partition(scores, -m)[-m]) if m < len(scores) else np.arange(len(scores))
        return self._scored(numbers if self._allowed is None else self._allowed[numbers], m)

    def of_videos(self, video_ids: Sequence[str]) -> Scored:
        numbers, order, bounds = self._segments.by_video
        parts = [order[bounds[n] : bounds[n + 1]] for n in (numbers[video_id] for video_id in video_ids)]
        rows = np.sort(np.concatenate(parts))
        return self._scored(rows if self._allowed is None else np.intersect1d(rows, self._allowed), None)

    def _scored(self, numbers: np.ndarray, m: int | None) -> Scored:
        rows = self._segments.rows.take(pa.array(numbers))
        return best_first(rows, self._segments.vectors[numbers], self._scores[numbers], m)


def best_first(rows: Any, vectors: np.ndarray, scores: np.ndarray, m: int | None) -> Scored:
    keys = pa.table({"score": scores, "segment_id": rows["segment_id"]})
    order = pc.sort_indices(keys, [("score", "descending"), ("segment_id", "ascending")])[:m]
    numbers = order.to_numpy()
    return Scored(rows.take(order), vectors[numbers], scores[numbers])
