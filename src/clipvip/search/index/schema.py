"""What the tables of an index are made of: columns, settings, ids, and rows as records.

Shapes: E embedding size.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipvip.errors import SearchIndexError
from clipvip.files import parse_json
from clipvip.search.index.checksums import row_checksums, thumbnail_checksum
from clipvip.search.index.scan import EncodedVideo, VideoFile
from clipvip.video import Scales

SCHEMA_VERSION = 3
"""3: segments have `RULE_COLUMNS` and, like thumbnails, a checksum. An index of schema 2 is read as it is, and gets
these columns when it is first written to."""
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
SEGMENT_COLUMNS = {
    "segment_id": pa.string(),
    **FILE_COLUMNS,
    "start_s": pa.float64(),
    "end_s": pa.float64(),
}  # and `vector`, whose type needs E, and `RULE_COLUMNS`
RULE_COLUMNS = {"reading_rules": pa.int32(), "num_windows": pa.int32()}
"""By which version of the reading rules a row was made (null: 1), and into how many segments its video was cut then
(null: not recorded, or the segments were not cut by the index)."""
SETTINGS, SETTINGS_CHECKSUM = b"clipvip", b"clipvip-crc32"
"""Metadata of the table of segments; an older clipvip wrote no checksum."""
FIRST_RULES = 1
CHECKSUM_COLUMN = {"checksum": pa.int64()}
"""Of the other columns of the row, see `damaged_rows`; null: not recorded, because an older clipvip wrote the row."""
NEW_COLUMNS = {**RULE_COLUMNS, **CHECKSUM_COLUMN}
CHECKED_COLUMNS = [*SEGMENT_COLUMNS, *RULE_COLUMNS, "vector"]
"""In the order in which checksums are computed; part of the format of an index."""
THUMBNAILS = pa.schema({"segment_id": pa.string(), "jpeg": pa.binary(), **CHECKSUM_COLUMN})
FAILURES = pa.schema(
    {"root": pa.string(), "path": pa.string(), "size_bytes": pa.int64(), "mtime_ns": pa.int64(), "reason": pa.string()}
)
ROOTS = pa.schema({"root": pa.string()})


@dataclass(frozen=True, slots=True)
class Settings:
    """What an index was made with. model: a hub id, or the absolute path of a folder; the fingerprint decides.

    windows_s, strides_s: the scales at which videos are cut. shots: at cuts instead, where a shot is no longer than the
    longest window.
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

    @property
    def scales(self) -> Scales:
        """Windows and strides."""
        return Scales(self.windows_s, self.strides_s)


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """An indexed file, as it was when it was read. root is absolute, path relative to it.

    reading_rules: the oldest version of the reading rules among its segments. num_windows: into how many segments it
    was cut; None where that was not recorded.
    """

    video_id: str
    root: str
    path: str
    content_hash: str
    size_bytes: int
    mtime_ns: int
    duration_s: float
    width: int
    height: int
    num_segments: int
    reading_rules: int = FIRST_RULES
    num_windows: int | None = None

    @property
    def absolute(self) -> Path:
        """Where the file is, or was."""
        return Path(self.root, self.path)


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of an indexed video."""

    segment_id: str
    video_id: str
    start_s: float
    end_s: float


def moved(table: Any, file: VideoFile) -> Any:
    """Rows of segments or thumbnails as those of another file with the same content."""
    ids = [f"{file.video_id}-{segment_id.split('-', 1)[1]}" for segment_id in table["segment_id"].to_pylist()]
    values: dict[str, Any] = {
        "segment_id": ids, "video_id": file.video_id, "root": file.root, "path": file.path,
        "size_bytes": file.size_bytes, "mtime_ns": file.mtime_ns,
    }  # fmt: skip
    for name, value in values.items():
        if name in table.column_names:
            place, kind = table.schema.get_field_index(name), table.schema.field(name).type
            cells = pa.array(value if isinstance(value, list) else [value] * len(table), kind)
            table = table.set_column(place, table.schema.field(name), cells)
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


def segment_id_of(video_id: str, start_s: float, end_s: float, *, given: bool = False) -> str:
    """Ids sort by video, then time up to 10^6 s. given: not cut by the index; times may be those of a window."""
    return f"{video_id}-{round(start_s * 1000):09d}-{round(end_s * 1000):09d}{'-given' if given else ''}"


def rows_of(videos: Sequence[EncodedVideo], size: int) -> tuple[Any, Any]:
    """Tables of their segments and of their thumbnails. size: E."""
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


def among(column: str, values: Sequence[str]) -> str:
    """An SQL condition."""
    quoted = (value.replace("'", "''") for value in values)
    return f"{column} IN ('" + "', '".join(quoted) + "')"


def segments_schema(settings: Settings) -> Any:
    columns = {**SEGMENT_COLUMNS, "vector": pa.list_(pa.float32(), settings.embedding_size), **NEW_COLUMNS}
    text = json.dumps(asdict(settings)).encode()
    metadata = {SETTINGS: text, SETTINGS_CHECKSUM: f"{zlib.crc32(text):08x}".encode()}
    return pa.schema(list(columns.items()), metadata=metadata)


def read_settings(uri: str, schema: Any) -> dict[str, Any]:
    """The fields of the settings in the schema of a table of segments. Raises: SearchIndexError if they are damaged."""
    metadata = schema.metadata or {}
    text = metadata.get(SETTINGS, b"{}")
    if metadata.get(SETTINGS_CHECKSUM, checksum := f"{zlib.crc32(text):08x}".encode()) != checksum:
        raise damaged_settings(uri, ValueError("not as they were written"))
    try:
        return dict(parse_json(text))
    except (ValueError, TypeError) as error:
        raise damaged_settings(uri, error) from None


def damaged_settings(uri: str, error: Exception) -> SearchIndexError:
    """What to raise for settings that cannot be read."""
    return SearchIndexError(
        f"{uri}: its settings are damaged ({error}); restore it from a copy, or index again elsewhere"
    )
