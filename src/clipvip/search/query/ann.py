"""Search of large libraries by LanceDB: its approximate index, or its own exact scan.

Shapes: n segments, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from clipvip.search.index.mmap_cache import COLUMNS
from clipvip.search.index.schema import CHECKED_COLUMNS, among
from clipvip.search.query.exact import SAMPLE_ROWS, Scan, Scored, Segments, best_first
from clipvip.search.query.filters import Condition, sql

EXACT_ROWS = 250_000
"""A library with more segments is searched with the approximate index: here a product takes about as long."""
FILTER_COLUMNS = ("video_id", "path", "mtime_ns", "duration_s")
PARTITION_ROWS = 4096
"""Of the index: rows to a partition, on average."""
NPROBES = 96
CANDIDATES, REFINE = 400, 3
"""Of a search: partitions looked into; candidates whose true distance is computed, in all and for each answer."""
LATE_ROWS = 10_000
"""More than so many that came after the index was made, and it takes them up: they are scanned at every query."""
SCANNED_ROWS = 20_000
"""Where filters leave no more, these are scanned: the index would have to look into most partitions to find them."""


def keep_ann(table: Any) -> bool:
    """Give a table of segments that is large enough its approximate index, or take up the rows that came after it.

    Rows that came after it are found without it, one by one. A bit for each number of a vector (RaBitQ), and the best
    candidates by their own vectors: at a million rows of 512 it is made in a fraction of the time of product
    quantisation, and answers in a quarter (docs/benchmarks.md). Returns: whether the table has one now.
    """
    num_rows = table.count_rows()
    if num_rows <= EXACT_ROWS:
        return False
    from lancedb.index import BTree, IvfFlat, IvfRq

    indices = {column: index for index in table.list_indices() for column in index.columns}
    for column in FILTER_COLUMNS:
        if column not in indices:
            table.create_index(column, config=BTree())
    if "vector" not in indices:
        num_partitions = max(num_rows // PARTITION_ROWS, 1)
        whole_bytes = table.schema.field("vector").type.list_size % 8 == 0  # as RaBitQ wants, and every CLIP has
        kind = IvfRq if whole_bytes else IvfFlat
        config = kind(distance_type="l2", num_partitions=num_partitions, max_iterations=20, sample_rate=128)
        table.create_index("vector", config=config)
    elif indices["vector"].num_unindexed_rows > LATE_ROWS:
        table.optimize()
    return True


class IndexedSegments(Segments):
    """Leaves the search to LanceDB: approximate if the table has an index and `exact` is not asked for.

    Rows that came after the index was built are searched as well, one by one.
    """

    def __init__(
        self,
        table: Any,
        read: Callable[[Any], Any] = lambda query: query.to_arrow(),
        check: Callable[[Any], Any] = lambda rows: rows,
        *,
        exact: bool = False,
    ):
        """read: what a query finds, as `Store.read`. check: rows with all their columns, as `Store.checked`."""
        self.table = table
        self.read = read
        self.check = check
        self.exact = exact

    @cached_property
    def sample(self) -> np.ndarray:
        """As `Segments.sample`."""
        total = self.table.count_rows()
        step = -(-total // SAMPLE_ROWS) or 1
        return vectors_of(self.read(self.table.take_offsets(list(range(0, total, step))).select(["vector"])))

    def blocks(self, wanted: Sequence[Condition]) -> Iterator[np.ndarray]:
        """As `Segments.blocks`."""
        query = self.table.search().select(["vector"])
        condition = sql(wanted)
        for batch in (query.where(condition) if condition else query).to_batches():
            yield vectors_of(batch)

    def scan(self, vector: np.ndarray, wanted: Sequence[Condition]) -> Scan:
        """As `Segments.scan`."""
        return IndexedScan(self, vector, sql(wanted))


class IndexedScan:
    """As `Scan`. condition: SQL."""

    def __init__(self, segments: IndexedSegments, vector: np.ndarray, condition: str | None):
        self._table, self._read, self._check = segments.table, segments.read, segments.check
        self._columns = [name for name in (*CHECKED_COLUMNS, "checksum") if name in segments.table.schema.names]
        self._vector = vector
        self._condition = condition
        few = condition is not None and self._table.count_rows(condition) <= SCANNED_ROWS
        self._exact = segments.exact or few

    def top(self, m: int) -> Scored:
        """As `Scan.top`."""
        query = self._table.search(self._vector).distance_type("l2").limit(m)
        if self._exact:
            query = query.bypass_vector_index()
        else:
            query = query.nprobes(NPROBES).refine_factor(max(REFINE, -(-CANDIDATES // m)))
        if self._condition:
            query = query.where(self._condition, prefilter=True)
        return self._scored(self._read(query.select([*self._columns, "_distance"])))

    def of_videos(self, video_ids: Sequence[str]) -> Scored:
        """As `Scan.of_videos`."""
        condition = among("video_id", video_ids) + (f" AND ({self._condition})" if self._condition else "")
        return self._scored(self._read(self._table.search().where(condition).select(self._columns)))

    def _scored(self, rows: Any) -> Scored:
        vectors = vectors_of(self._check(rows))
        return best_first(rows.select(COLUMNS), vectors, vectors @ self._vector, None)


def vectors_of(rows: Any) -> np.ndarray:
    """The column `vector` of a pyarrow table or batch: float32 [n, E]."""
    column = rows["vector"]
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)
