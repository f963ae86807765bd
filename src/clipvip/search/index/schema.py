"""What the tables of an index are made of: columns, settings, ids, rows and their checksums.

Checksums find a changed bit, a zeroed block or a row that belongs elsewhere; they are no defence against somebody who
writes a false one. Shapes: n rows, E embedding size.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipvip.errors import SearchIndexError
from clipvip.files import parse_json
from clipvip.search.index.records import EncodedVideo, VideoFile
from clipvip.video import Scales

SCHEMA_VERSION = 3
"""3: segments have `RULE_COLUMNS` and, like thumbnails, a checksum. An index of schema 2 is read as it is, and gets
these columns when it is first written to."""
OLD_SCHEMA = 2
"""The oldest that can be read: segments without `NEW_COLUMNS`."""
FILE_COLUMNS = {
    "video_id": pa.string(),
    "root": pa.string(),
    "path": pa.string(),
    "content_hash": pa.string(),
    "size_bytes": pa.int64(),
    "mtime_ns": pa.int64(),
    "duration_s": pa.float64(),
    "width": pa.int32(),
    "height": pa.int32(),
}
SEGMENT_COLUMNS = {"segment_id": pa.string(), **FILE_COLUMNS, "start_s": pa.float64(), "end_s": pa.float64()}
"""And `vector`, whose type needs E, and `NEW_COLUMNS`."""
RULE_COLUMNS = {"reading_rules": pa.int32(), "num_windows": pa.int32()}
"""By which version of the reading rules a row was made (null: 1), and into how many segments its video was cut then
(null: not recorded, or the segments were not cut by the index)."""
CHECKSUM_COLUMN = {"checksum": pa.int64()}
"""Of the other columns of the row, see `damaged_rows`; null: not recorded, because an older clipvip wrote the row."""
NEW_COLUMNS = {**RULE_COLUMNS, **CHECKSUM_COLUMN}
CHECKED_COLUMNS = [*SEGMENT_COLUMNS, *RULE_COLUMNS, "vector"]
"""In the order in which checksums are computed; part of the format of an index."""
HIT_COLUMNS = ["segment_id", "video_id", "root", "path", "mtime_ns", "duration_s", "start_s", "end_s"]
"""What a search needs to know of a segment."""
THUMBNAILS = pa.schema({"segment_id": pa.string(), "jpeg": pa.binary(), **CHECKSUM_COLUMN})
FAILURES = pa.schema(
    {"root": pa.string(), "path": pa.string(), "size_bytes": pa.int64(), "mtime_ns": pa.int64(), "reason": pa.string()}
)
ROOTS = pa.schema({"root": pa.string()})
SETTINGS, SETTINGS_CHECKSUM = b"clipvip", b"clipvip-crc32"
"""Metadata of the table of segments; an older clipvip wrote no checksum."""
MULTIPLIER = 0x9E3779B97F4A7C15
"""Odd, so that a product keeps every bit of its other factor."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an index was made with. model: a hub id, or the absolute path of a folder; the fingerprint decides.

    windows_s, strides_s: the scales at which videos are cut. shots: whether they are cut into shots first, of which
    only those longer than the longest window are cut into windows.
    """

    model: str
    fingerprint: str
    embedding_size: int
    windows_s: tuple[float, ...]
    strides_s: tuple[float, ...]
    shots: bool = False
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def of(cls, values: dict[str, Any]) -> Settings:
        """From JSON. Raises: KeyError or TypeError for values that are not those of `Settings`."""
        return cls(**values | {name: tuple(values[name]) for name in ("windows_s", "strides_s")})

    @classmethod
    def read(cls, uri: str, schema: pa.Schema) -> Settings:
        """From the schema of a table of segments. The columns show its version: metadata cannot be changed.

        Raises: SearchIndexError if they are damaged, or of a schema that cannot be read.
        """
        metadata = schema.metadata or {}
        text = metadata.get(SETTINGS, b"{}")
        try:
            if metadata.get(SETTINGS_CHECKSUM, _text_checksum(text)) != _text_checksum(text):
                raise ValueError("not as they were written")
            values = dict(parse_json(text))
            version = values.get("schema_version")
            if not isinstance(version, int) or version < OLD_SCHEMA:
                raise SearchIndexError(
                    f"{uri}: an index of schema {version}, this clipvip reads {OLD_SCHEMA} to {SCHEMA_VERSION}; "
                    "index again elsewhere"
                )
            newer = set(schema.names) - {*SEGMENT_COLUMNS, *NEW_COLUMNS, "vector"}
            if version > SCHEMA_VERSION or newer:
                what = f"schema {version}" if version > SCHEMA_VERSION else f"with columns {', '.join(sorted(newer))}"
                raise SearchIndexError(f"{uri}: made by a newer clipvip ({what}); upgrade clipvip")
            values["schema_version"] = OLD_SCHEMA if missing_columns(schema) else SCHEMA_VERSION
            return cls.of(values)
        except (ValueError, TypeError, KeyError) as error:
            raise SearchIndexError(
                f"{uri}: its settings are damaged ({error}); restore it from a copy, or index again elsewhere"
            ) from None

    @property
    def scales(self) -> Scales:
        return Scales(self.windows_s, self.strides_s)


def segments_schema(settings: Settings) -> Any:
    columns = {**SEGMENT_COLUMNS, "vector": pa.list_(pa.float32(), settings.embedding_size), **NEW_COLUMNS}
    text = json.dumps(asdict(settings)).encode()
    return pa.schema(list(columns.items()), metadata={SETTINGS: text, SETTINGS_CHECKSUM: _text_checksum(text)})


def missing_columns(schema: Any) -> list[tuple[str, Any]]:
    """The columns of the current schema that a table of segments lacks."""
    return [(name, kind) for name, kind in NEW_COLUMNS.items() if name not in schema.names]


def segment_id_of(video_id: str, start_s: float, end_s: float, *, given: bool = False) -> str:
    """Ids sort by video, then time up to 10^6 s. given: not cut by the index; times may be those of a window."""
    return f"{video_id}-{round(start_s * 1000):09d}-{round(end_s * 1000):09d}{'-given' if given else ''}"


def rows_of(videos: Sequence[EncodedVideo], size: int) -> tuple[Any, Any]:
    rows, thumbnails = [], []
    for video in videos:
        file = video.file
        whole = {
            "video_id": file.video_id, "root": file.root, "path": file.path, "content_hash": video.content_hash,
            "size_bytes": file.size_bytes, "mtime_ns": file.mtime_ns, "duration_s": video.duration_s,
            "width": video.width, "height": video.height, "reading_rules": video.reading_rules,
            "num_windows": None if video.given else len(video.segments),
        }  # fmt: skip
        for (start_s, end_s), jpeg in zip(video.segments, video.thumbnails, strict=True):
            segment_id = segment_id_of(file.video_id, start_s, end_s, given=video.given)
            rows.append(whole | {"segment_id": segment_id, "start_s": start_s, "end_s": end_s})
            if jpeg is not None:
                checksum = thumbnail_checksum(segment_id, jpeg)
                thumbnails.append({"segment_id": segment_id, "jpeg": jpeg, "checksum": checksum})
    vectors = np.concatenate([np.empty((0, size), np.float32), *(video.vectors for video in videos)])
    table = pa.Table.from_pylist(rows, schema=pa.schema({**SEGMENT_COLUMNS, **RULE_COLUMNS}))
    place = len(SEGMENT_COLUMNS)  # where it is in an index of schema 2
    table = table.add_column(place, "vector", pa.FixedSizeListArray.from_arrays(vectors.ravel(), size))
    return with_checksums(table), pa.Table.from_pylist(thumbnails, schema=THUMBNAILS)


def rows_of_copy(table: Any, file: VideoFile) -> Any:
    """Rows of segments or thumbnails as those of another file with the same content."""
    ids = [f"{file.video_id}-{segment_id.split('-', 1)[1]}" for segment_id in table["segment_id"].to_pylist()]
    values: dict[str, Any] = {
        "segment_id": ids, "video_id": file.video_id, "root": file.root, "path": file.path,
        "size_bytes": file.size_bytes, "mtime_ns": file.mtime_ns,
    }  # fmt: skip
    for name in values.keys() & set(table.column_names):
        place, column = table.schema.get_field_index(name), table.schema.field(name)
        value = values[name]
        cells = pa.array(value if isinstance(value, list) else [value] * len(table), column.type)
        table = table.set_column(place, column, cells)
    return with_checksums(table)


def with_checksums(table: Any) -> Any:
    """Rows of segments or thumbnails with their checksums as they are now."""
    if "jpeg" in table.column_names:
        parts = zip(table["segment_id"].to_pylist(), table["jpeg"].to_pylist(), strict=True)
        checksums = pa.array([thumbnail_checksum(segment_id, jpeg) for segment_id, jpeg in parts], pa.int64())
    else:
        checksums = pa.array(row_checksums(table, CHECKED_COLUMNS))
    if "checksum" in table.column_names:
        table = table.drop_columns("checksum")
    return table.append_column("checksum", checksums)


def damaged_rows(rows: Any) -> np.ndarray:
    """Which rows of segments are not as they were written, bool [n]; rows without a checksum are taken as they are."""
    if "checksum" not in rows.schema.names:
        return np.zeros(len(rows), bool)
    recorded = rows["checksum"]
    known = np.asarray(recorded.is_valid())
    return known & (recorded.fill_null(0).to_numpy() != row_checksums(rows, CHECKED_COLUMNS))


def is_damaged_thumbnail(thumbnail: dict[str, Any]) -> bool:
    """Whether a row of thumbnails is not as it was written; one without a checksum is taken as it is."""
    checksum = thumbnail.get("checksum")
    return checksum is not None and checksum != thumbnail_checksum(thumbnail["segment_id"], thumbnail["jpeg"])


def vectors_of(rows: Any) -> np.ndarray:
    """The column `vector` of a pyarrow table or batch: float32 [n, E]."""
    column = rows["vector"]
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def row_checksums(rows: Any, columns: Sequence[str]) -> np.ndarray:
    """A checksum of these columns of each row of a pyarrow table, int64 [n]: any single changed bit changes it.

    Only integer arithmetic modulo 2^64, so that it is the same on every machine.
    """
    total = np.zeros(len(rows), np.uint64)
    for name in columns:
        column = rows[name]
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        total = total * np.uint64(MULTIPLIER) + _cell_checksums(column)
    return total.view(np.int64)


def thumbnail_checksum(segment_id: str, jpeg: bytes) -> int:
    """Of a JPEG and the segment that it belongs to."""
    return zlib.crc32(jpeg, zlib.crc32(segment_id.encode()))


def vector_checksums(vectors: np.ndarray) -> np.ndarray:
    """A checksum of each vector, uint64 [n], of float32 [n, E]. Costs less than a product with a query."""
    words = np.ascontiguousarray(vectors, np.float32).view(np.uint64 if vectors.shape[1] % 2 == 0 else np.uint32)
    sums = np.zeros(len(words), np.uint64)
    weights = _weights(words.shape[1])
    for start in range(0, len(words), 1024):  # blocks that stay in the processor's cache
        sums[start : start + 1024] = np.einsum(
            "ij,j->i", words[start : start + 1024].astype(np.uint64, copy=False), weights
        )
    return sums


def _cell_checksums(column: Any) -> np.ndarray:
    """uint64 [n], of an array of strings, numbers or vectors. Nulls count as a number of their own."""
    if pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size
        values = column.values.slice(column.offset * size, len(column) * size)
        vectors = values.to_numpy(zero_copy_only=False).reshape(len(column), size)
        return vector_checksums(vectors)
    if pa.types.is_string(column.type):
        sums = _string_checksums(pc.fill_null(column, ""))
    elif pa.types.is_floating(column.type):
        sums = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False).astype(np.float64).view(np.uint64)
    else:
        sums = pc.fill_null(column, 0).to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)
    if column.null_count:
        sums = np.where(column.is_null().to_numpy(zero_copy_only=False), np.uint64(MULTIPLIER), sums)
    return sums


def _string_checksums(column: Any) -> np.ndarray:
    """uint64 [n]: the bytes of each string, weighted by their place in it."""
    sums = np.zeros(len(column), np.uint64)
    if not len(column):
        return sums
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    lengths = np.diff(offsets)
    if not lengths.any():
        return sums
    data = np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)
    places = np.arange(len(data)) - np.repeat(offsets[:-1] - offsets[0], lengths)
    filled = lengths > 0
    sums[filled] = np.add.reduceat(data * _weights(int(lengths.max()))[places], (offsets[:-1] - offsets[0])[filled])
    return sums


def _weights(count: int) -> np.ndarray:
    numbers = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(MULTIPLIER)
    numbers ^= numbers >> np.uint64(30)
    numbers *= np.uint64(0xBF58476D1CE4E5B9)
    numbers ^= numbers >> np.uint64(27)
    return numbers | np.uint64(1)


def _text_checksum(text: bytes) -> bytes:
    return f"{zlib.crc32(text):08x}".encode()
