"""Scores of a library's segments against a query vector: exact, as one product with all of them.

Shapes: N segments, E embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from clipvip.search.filters import Condition, mask

COLUMNS = ["segment_id", "video_id", "root", "path", "mtime_ns", "duration_s", "start_s", "end_s"]


@dataclass(frozen=True, slots=True)
class Scored:
    """Segments, best first, equal scores by segment_id. rows: a pyarrow table of `COLUMNS`; scores: float32 [n]."""

    rows: Any
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


class ExactSegments:
    """All segments: rows (a pyarrow table of `COLUMNS`) and vectors float32 [N, E], in the same order."""

    def __init__(self, rows: Any, vectors: np.ndarray):
        self.rows = rows
        self.vectors = vectors

    def scan(self, vector: np.ndarray, wanted: list[Condition]) -> ExactScan:
        """Score the segments that meet the conditions."""
        allowed = mask(wanted, self.rows)
        scores = self.vectors @ vector  # [N]
        return ExactScan(self, np.arange(len(scores)) if allowed is None else np.flatnonzero(allowed), scores)

    @cached_property
    def by_video(self) -> tuple[dict[str, int], np.ndarray, np.ndarray]:
        """Numbers of the videos by id; rows ordered by these [N]; where those of each begin there [videos + 1]."""
        coded = self.rows["video_id"].combine_chunks().dictionary_encode()
        codes = coded.indices.to_numpy()
        numbers = {video_id: number for number, video_id in enumerate(coded.dictionary.to_pylist())}
        bounds = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(numbers)))])
        return numbers, np.argsort(codes, kind="stable"), bounds


class ExactScan:
    """The scores of one query. allowed: numbers of the rows that may answer; scores: float32 [N], of all rows."""

    def __init__(self, segments: ExactSegments, allowed: np.ndarray, scores: np.ndarray):
        self._segments = segments
        self._allowed = allowed
        self.scores = scores

    @property
    def ground(self) -> float:
        """The mean score: what has nothing to do with the query gets about this."""
        return float(self.scores.mean()) if len(self.scores) else 0.0

    def top(self, m: int) -> Scored:
        """The best `m` segments, or all if there are no more."""
        scores = self.scores[self._allowed]
        if m < len(scores):
            least = np.partition(scores, -m)[-m]
            return self._scored(self._allowed[scores >= least], m)
        return self._scored(self._allowed, m)

    def of_videos(self, video_ids: list[str]) -> Scored:
        """All segments of these videos that may answer."""
        numbers, order, bounds = self._segments.by_video
        rows = [order[bounds[n] : bounds[n + 1]] for n in (numbers[video_id] for video_id in video_ids)]
        return self._scored(np.intersect1d(np.concatenate(rows), self._allowed), None)

    def _scored(self, numbers: np.ndarray, m: int | None) -> Scored:
        rows = self._segments.rows.take(pa.array(numbers)).append_column("score", pa.array(self.scores[numbers]))
        rows = rows.sort_by([("score", "descending"), ("segment_id", "ascending")]).slice(0, m)
        return Scored(rows.drop_columns("score"), rows["score"].to_numpy())
