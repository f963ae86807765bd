"""Rows that are in a table twice: an object store has no lock, so two processes may insert the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from clipvip.search.index.schema import among, damaged_rows

if TYPE_CHECKING:
    from clipvip.search.index.store import Store


def find_copies(store: Store, video_ids: Sequence[str] | None = None) -> list[tuple[Any, list[int]]]:
    """Tables in which keys are there twice, and the row numbers of all but one of each, the same ones for any process.

    Of segments the newest row that is as it was written stays, then the first. video_ids: look at the segments and
    thumbnails of these videos; None: of all.
    """
    found = [(store.roots, _surplus(store, store.roots, "root", None))]
    if video_ids is None or video_ids:
        in_segments = in_thumbnails = None
        if video_ids is not None:
            in_segments = among("video_id", video_ids)
            in_thumbnails = " OR ".join(f"segment_id LIKE '{video_id}-%'" for video_id in video_ids)
        found.append((store.segments, _surplus(store, store.segments, "segment_id", in_segments)))
        found.append((store.thumbnails, _surplus(store, store.thumbnails, "segment_id", in_thumbnails)))
    return [(table, numbers) for table, numbers in found if numbers]


def _surplus(store: Store, table: Any, key: str, where: str | None) -> list[int]:
    query = table.search().select([key])
    counts = pc.value_counts(store.read(query.where(where) if where else query)[key])
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()
    if not twice:
        return []
    rows = store.read(table.search().where(among(key, twice)).with_row_id(True))
    numbers, keys = rows["_rowid"].to_numpy(), rows[key].to_pylist()
    order = [numbers]
    if "vector" in rows.column_names:
        order += [-rows["mtime_ns"].to_numpy(), damaged_rows(rows)]
    seen, surplus = set[str](), list[int]()
    for row in np.lexsort(order).tolist():  # the last key counts most
        if keys[row] in seen:
            surplus.append(int(numbers[row]))
        seen.add(keys[row])
    return surplus
