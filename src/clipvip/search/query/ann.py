"""Search of large libraries by LanceDB: its approximate index, or its own exact scan.

Shapes: n segments, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from clipvip.search.index._lance import among
from clipvip.search.index.schema import CHECKED_COLUMNS, HIT_COLUMNS, vectors_of
from clipvip.search.query.exact import SAMPLE_ROWS, Scan, Scored, Segments, best_first
from clipvip.search.query.filters import Condition, sql

NPROBES = 96
CANDIDATES, REFINE = 400, 3
"""Of a search: partitions looked into; candidates whose true distance is computed, in all and for each answer."""
SCANNED_ROWS = 20_000
"""Where filters leave no more, these are scanned: the index would have to look into most partitions to find them."""


class IndexedSegments(Segments):
    """Leaves the search to LanceDB: approximate if the table has an index and `exact` is not asked for.

    Rows that came after the index was built are searched as well, one by one.
    read: what a query finds, as `Store.read`. check: rows with all their columns, as `Store.checked`.
    """

    def __init__(
        self,
        table: Any,
        read: Callable[[Any], Any] = lambda query: query.to_arrow(),
        check: Callable[[Any], Any] = lambda rows: rows,
        *,
        exact: bool = False,
    ):
        self.table = table
        self.read = read
        self.check = check
        self.exact = exact

    @cached_property
    def sample(self) -> np.ndarray:
        total = self.table.count_rows()
        step = -(-total // SAMPLE_ROWS) or 1
        return vectors_of(self.read(self.table.take_offsets(list(range(0, total, step))).select(["vector"])))

    def blocks(self, conditions: Sequence[Condition]) -> Iterator[np.ndarray]:
        query = self.table.search().select(["vector"])
        condition = sql(conditions)
        for batch in (query.where(condition) if condition else query).to_batches():
            yield vectors_of(batch)

    def scan(self, vector: np.ndarray, conditions: Sequence[Condition]) -> Scan:
        return IndexedScan(self, vector, sql(conditions))


class IndexedScan:
    def __init__(self, segments: IndexedSegments, vector: np.ndarray, condition: str | None):
        self._table, self._read, self._check = segments.table, segments.read, segments.check
        self._columns = [name for name in (*CHECKED_COLUMNS, "checksum") if name in segments.table.schema.names]
        self._vector = vector
        self._condition = condition
        few = condition is not None and self._table.count_rows(condition) <= SCANNED_ROWS
        self._exact = segments.exact or few

    def top(self, m: int) -> Scored:
        query = self._table.search(self._vector).distance_type("l2").limit(m)
        if self._exact:
            query = query.bypass_vector_index()
        else:
            query = query.nprobes(NPROBES).refine_factor(max(REFINE, -(-CANDIDATES // m)))
        if self._condition:
            query = query.where(self._condition, prefilter=True)
        return self._scored(self._read(query.select([*self._columns, "_distance"])))

    def of_videos(self, video_ids: Sequence[str]) -> Scored:
        condition = among("video_id", video_ids) + (f" AND ({self._condition})" if self._condition else "")
        return self._scored(self._read(self._table.search().where(condition).select(self._columns)))

    def _scored(self, rows: Any) -> Scored:
        vectors = vectors_of(self._check(rows))
        return best_first(rows.select(HIT_COLUMNS), vectors, vectors @ self._vector, None)
