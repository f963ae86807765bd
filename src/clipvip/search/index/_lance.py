"""What is done with LanceDB: connections, locks, conditions, errors as one line, rows of videos in and out, indices.

Whatever changes a table is called within `Store.write`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipvip.errors import ClipVipError, SearchIndexError
from clipvip.files import locked
from clipvip.search.index.integrity import check_newest, is_remote
from clipvip.search.index.records import EncodedVideo, KnownContent, Write
from clipvip.search.index.schema import THUMBNAILS, damaged_rows, is_damaged_thumbnail, rows_of, rows_of_copy

if TYPE_CHECKING:
    from clipvip.search.index.store import Store

T = TypeVar("T")

REMOTE_LIMITS = {"connect_timeout": "5s", "timeout": "20s", "client_max_retries": "1", "client_retry_timeout": "40"}
"""Of an object store: for a connection, for one request, and for all tries of one."""
IDS_PER_CONDITION = 500
"""More make SQL that LanceDB parses for longer than it searches."""
VIDEO_OF_THUMBNAIL = "split_part(segment_id, '-', 1)"
"""SQL: the video_id."""
EXACT_ROWS = 250_000
"""A library with more segments is searched with the approximate index: here a product takes about as long."""
FILTER_COLUMNS = ("video_id", "path", "mtime_ns", "duration_s")
PARTITION_ROWS = 4096
"""Of the approximate index: rows per partition, on average."""
LATE_ROWS = 10_000
"""When more rows than this came after the index was made, it takes them up: they are scanned at every query."""


def connect(uri: str) -> Any:
    """LanceDB, imported late: most mistakes are found without it. A store that does not answer is an error in time."""
    import lancedb

    return lancedb.connect(uri, storage_options=REMOTE_LIMITS) if is_remote(uri) else lancedb.connect(uri)


def open_if_there(database: Any, name: str) -> Any:
    """The latest version of a table, or None: one that a killed process began to make is listed, but is not there."""
    try:
        return database.open_table(name)
    except ValueError as error:
        if "was not found" not in str(error):
            raise
        return None


def has_segments(database: Any) -> bool:
    """Whether there is an index.

    Raises: ValueError if there is data that belongs to no table, which must not be overwritten by a new index;
    SearchIndexError as `integrity.check_newest`.
    """
    if not is_remote(database.uri):
        check_newest(Path(database.uri))
    if open_if_there(database, "segments") is not None:
        return True
    if any(Path(database.uri, "segments.lance", "data").glob("*")):
        raise ValueError(
            "its segments are there, their versions are not: it was copied in part, or is damaged; copy it again, or "
            "remove it and index again"
        )
    return False


def among(column: str, values: Sequence[str]) -> str:
    """An SQL condition: a column, or an expression, has one of these values; `split` those that may be many."""
    quoted = (value.replace("'", "''") for value in values)
    return f"{column} IN ('" + "', '".join(quoted) + "')"


def split(values: Sequence[T]) -> list[Sequence[T]]:
    return [values[start : start + IDS_PER_CONDITION] for start in range(0, len(values), IDS_PER_CONDITION)]


def delete_among(table: Any, column: str, values: Sequence[str]) -> None:
    """Delete the rows with these values: in as many versions of the table as there are parts."""
    for part in split(values):
        table.delete(among(column, part))


def upsert(table: Any, key: str, rows: Any, delete: str | None = None) -> None:
    """Insert or update `rows` by their key and delete others by a condition, in one version of the table."""
    merge = table.merge_insert(key).when_matched_update_all().when_not_matched_insert_all()
    if delete:
        merge = merge.when_not_matched_by_source_delete(delete)
    merge.execute(rows)


@contextmanager
def write_lock(uri: str) -> Iterator[None]:
    """The index for this process alone: folders have a lock; object stores refuse the slower of two commits instead."""
    if is_remote(uri):
        yield
        return
    os.makedirs(uri, exist_ok=True)
    with locked(Path(uri), wait=True):
        yield


@contextmanager
def lance_errors(uri: str, what: str) -> Iterator[None]:
    """LanceDB's errors, which are of many kinds and many lines, as one line."""
    try:
        yield
    except BaseException as error:
        # Rust's panics are of classes that cannot be imported
        is_panic = type(error).__module__ in ("pyo3_runtime", "pyo3_async_runtimes")
        if isinstance(error, ClipVipError) or not (is_panic or isinstance(error, RuntimeError | OSError | ValueError)):
            raise
        raise SearchIndexError(f"{uri}: {what} ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if "No space left" in text or getattr(error, "errno", None) == errno.ENOSPC:
        return "no space left on the device; free some, and the same command goes on: what was committed is kept"
    return re.split(r", /\S+\.rs:\d+", text)[0][:300]


def write_files(store: Store, writes: Sequence[Write]) -> list[KnownContent]:
    """Write the segments of some files, and delete those that they replace, in one version of the segments.

    Returns: files of known content that no video has any more.
    """
    lost = []
    encoded = [write.video for write in writes if isinstance(write.video, EncodedVideo)]
    copies = [write.video for write in writes if isinstance(write.video, KnownContent)]
    new = rows_of(encoded, store.settings.embedding_size)
    sources = _copy_sources(store, sorted({copy.content_hash for copy in copies}), *new)
    tables = [new]
    for copy in copies:
        if copy.content_hash in sources:
            segments, thumbnails = sources[copy.content_hash]
            tables.append((rows_of_copy(segments, copy.file), rows_of_copy(thumbnails, copy.file)))
        else:
            lost.append(copy)
    rows, thumbnails = (pa.concat_tables(parts) for parts in zip(*tables, strict=True))
    ids = sorted({video_id for write in writes for video_id in (write.video.file.video_id, *write.replaces)})
    old = {row for part in split(ids) for row in _segment_ids(store, among("video_id", part))}
    outdated = sorted(old - set(rows["segment_id"].to_pylist()))
    # A kill between the two leaves thumbnails without a segment, which nobody sees, never the reverse.
    upsert(store.thumbnails, "segment_id", thumbnails)
    if not outdated:
        upsert(store.segments, "segment_id", rows)
    elif len(rows):
        upsert(store.segments, "segment_id", rows, delete=among("video_id", ids))  # reads the whole table
    else:
        delete_among(store.segments, "video_id", ids)
    delete_among(store.thumbnails, "segment_id", outdated)
    return lost


def delete_videos(store: Store, video_ids: Sequence[str]) -> None:
    delete_among(store.segments, "video_id", video_ids)
    delete_among(store.thumbnails, VIDEO_OF_THUMBNAIL, video_ids)


def _segment_ids(store: Store, where: str) -> list[str]:
    return list(store.segments.search().where(where).select(["segment_id"]).to_arrow()["segment_id"].to_pylist())


def _copy_sources(store: Store, hashes: Sequence[str], rows: Any, thumbnails: Any) -> dict[str, tuple[Any, Any]]:
    """By content hash the segments of one video that has it, stored or among these `rows`, and their thumbnails."""
    if not hashes:
        return {}
    stored = store.segments.search().where(among("content_hash", hashes)).to_arrow()
    damaged = pc.unique(stored["content_hash"].filter(pa.array(damaged_rows(stored))))
    stored = stored.filter(pc.invert(pc.is_in(stored["content_hash"], damaged)))  # its file is encoded again
    stored = stored.select(rows.column_names).cast(rows.schema).sort_by([("reading_rules", "descending")])
    sources: dict[str, tuple[Any, Any]] = {}
    for content_hash in hashes:
        same = rows.filter(pc.equal(rows["content_hash"], content_hash))
        if not len(same):  # never of both: another process may have stored the very video that is being written
            same = stored.filter(pc.equal(stored["content_hash"], content_hash))
        if len(same):
            video_id = same["video_id"][0].as_py()
            same = same.filter(pc.equal(same["video_id"], video_id))
            ids = same["segment_id"]
            new = thumbnails.filter(pc.is_in(thumbnails["segment_id"], ids.combine_chunks()))
            sources[content_hash] = same, new if len(new) else _stored_thumbnails(store, video_id, ids)
    return sources


def _stored_thumbnails(store: Store, video_id: str, segment_ids: Any) -> Any:
    rows = store.thumbnails.search().where(among(VIDEO_OF_THUMBNAIL, [video_id])).to_arrow()
    rows = rows.select(THUMBNAILS.names).cast(THUMBNAILS)
    rows = rows.filter(pc.is_in(rows["segment_id"], segment_ids.combine_chunks()))
    return rows.filter(pa.array([not is_damaged_thumbnail(row) for row in rows.to_pylist()], pa.bool_()))


def find_copies(store: Store, video_ids: Sequence[str] | None = None) -> list[tuple[Any, list[int]]]:
    """Tables in which keys are there twice, and the row numbers of all but one of each, the same ones for any process.

    An object store has no lock, so two processes may insert the same rows. Of segments the newest row that is as it was
    written stays, then the first. video_ids: look at the segments and thumbnails of these videos; None: of all.
    """
    found = [(store.roots, _surplus(store, store.roots, "root", None))]
    for part in [None] if video_ids is None else split(video_ids):
        in_segments = None if part is None else among("video_id", part)
        in_thumbnails = None if part is None else among(VIDEO_OF_THUMBNAIL, part)
        found.append((store.segments, _surplus(store, store.segments, "segment_id", in_segments)))
        found.append((store.thumbnails, _surplus(store, store.thumbnails, "segment_id", in_thumbnails)))
    return [(table, numbers) for table, numbers in found if numbers]


def _surplus(store: Store, table: Any, key: str, where: str | None) -> list[int]:
    query = table.search().select([key])
    counts = pc.value_counts(store.read(query.where(where) if where else query)[key])
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()
    surplus: list[int] = []
    for part in split(twice):
        rows = store.read(table.search().where(among(key, part)).with_row_id(True))
        numbers, keys = rows["_rowid"].to_numpy(), rows[key].to_pylist()
        order = [numbers]
        if "vector" in rows.column_names:
            order += [-rows["mtime_ns"].to_numpy(), damaged_rows(rows)]
        seen = set[str]()
        for row in np.lexsort(order).tolist():  # the last key counts most
            if keys[row] in seen:
                surplus.append(int(numbers[row]))
            seen.add(keys[row])
    return surplus


def update_ann_index(table: Any) -> bool:
    """Give a table of segments that is large enough its approximate index, or add the rows that came after it.

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
