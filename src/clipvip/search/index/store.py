"""The LanceDB tables of an index: what is in them, and how they change.

`segments` has one row per segment (see `schema`), and its schema carries the settings of the index; `thumbnails` has
one JPEG per segment; `failures` one row per file that could not be indexed; `roots` one row per folder that was added;
`background` the background queries, whose schema carries the fingerprint of the model that encoded them. A file is in
`segments` as a whole or not at all. Shapes: n segments of a video, B background queries, E embedding size.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipvip.errors import SearchIndexError
from clipvip.files import folder_bytes
from clipvip.search.index import integrity
from clipvip.search.index._lance import (
    among,
    connect,
    delete_among,
    delete_videos,
    find_copies,
    has_segments,
    lance_errors,
    open_if_there,
    split,
    upsert,
    write_files,
    write_lock,
)
from clipvip.search.index.integrity import is_remote
from clipvip.search.index.mmap_cache import Facts, read_facts, version_key
from clipvip.search.index.records import FIRST_RULES, Changes, KnownContent, Segment, VideoFile, VideoRecord
from clipvip.search.index.schema import (
    CHECKSUM_COLUMN,
    FAILURES,
    FILE_COLUMNS,
    OLD_SCHEMA,
    ROOTS,
    RULE_COLUMNS,
    SCHEMA_VERSION,
    THUMBNAILS,
    Settings,
    damaged_rows,
    is_damaged_thumbnail,
    missing_columns,
    row_checksums,
    segments_schema,
    thumbnail_checksum,
    vectors_of,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)
SCHEMAS = {"thumbnails": THUMBNAILS, "failures": FAILURES, "roots": ROOTS}
KEEP_VERSIONS = timedelta(hours=1)
"""For readers that are at work while a run ends."""
SMALL_FRAGMENTS = 8
"""So many are compacted; that writes large ones again, too."""
FILES_PER_VERSION = 128
"""Whose segments are written in one version of the table."""
BY_TIME = [("start_s", "ascending"), ("end_s", "ascending"), ("segment_id", "ascending")]
ATTEMPTS, FIRST_WAIT_S = 8, 0.05
"""At a commit that another process was quicker with (object stores; a folder has a lock): tries, and the longest wait
before the second one, which doubles with each."""
FINGERPRINT, CHECKSUM = b"fingerprint", b"checksum"
"""Metadata of the table of background queries; an older clipvip wrote no checksum."""


class Store:
    """The tables of one index. Get one with `Store.open` or `Store.create`."""

    def __init__(self, uri: str, settings: Settings, *, facts: Facts | None = None):
        """facts: what is known without the tables, which are then opened when they are first needed."""
        self.uri = uri
        self.settings = settings
        self._facts = facts
        if facts is None:
            _ = self._tables

    @cached_property
    def database(self) -> Any:
        return connect(self.uri)

    @cached_property
    def segments(self) -> Any:
        """One row per segment; in the version that the facts are of, if there are some, until `refresh`."""
        table = self._open_table("segments")
        if self._facts is not None and table.version != self._facts.version:
            with suppress(RuntimeError, ValueError):  # that version may have been removed meanwhile
                table.checkout(self._facts.version)
        return table

    @cached_property
    def thumbnails(self) -> Any:
        return self._open_table("thumbnails")

    @cached_property
    def failures(self) -> Any:
        return self._open_table("failures")

    @cached_property
    def roots(self) -> Any:
        return self._open_table("roots")

    @property
    def _tables(self) -> tuple[Any, ...]:
        return self.segments, self.thumbnails, self.failures, self.roots

    def _open_table(self, name: str) -> Any:
        with lance_errors(self.uri, "cannot be read"):
            return self.database.open_table(name)

    @property
    def background(self) -> Any:
        """The latest version of the table of background queries, or None if there is none."""
        with lance_errors(self.uri, "cannot be read"):
            return open_if_there(self.database, "background")

    @property
    def facts(self) -> Facts | None:
        """What is known of the segments as long as their table has not been opened."""
        return None if "segments" in self.__dict__ else self._facts

    @property
    def version(self) -> int:
        return self.facts.version if self.facts else self.segments.version

    @property
    def version_key(self) -> str:
        return self.facts.key if self.facts else version_key(self.segments)

    @property
    def versions(self) -> tuple[str, ...]:
        return tuple(version_key(table) for table in (*self._tables, self.background) if table is not None)

    @property
    def table_versions(self) -> tuple[int, ...]:
        """One number per table, which grows with each commit: cheaper than `versions`, blind to tables made again."""
        return tuple(table.version for table in (*self._tables, self.background) if table is not None)

    @property
    def num_segments(self) -> int:
        return self.facts.num_rows if self.facts else self.segments.count_rows()

    @classmethod
    def create(cls, uri: str, settings: Settings, *, overwrite: bool = False) -> Store:
        """A new, empty index; or the one that another process has made meanwhile.

        overwrite: instead of an existing one, of which only the folders that were added stay.
        """
        with lance_errors(uri, "cannot be written"):
            database = connect(uri)
            with write_lock(uri):
                exists = has_segments(database)
                if exists and overwrite:
                    for name in set(database.list_tables().tables) - {"segments", "roots"}:
                        if name in SCHEMAS:
                            database.create_table(name, schema=SCHEMAS[name], mode="overwrite")
                        else:  # made of the vectors of the other model
                            database.drop_table(name)
                    database.create_table("segments", schema=segments_schema(settings), mode="overwrite")
                elif not exists:
                    if not is_remote(uri):
                        Path(uri, integrity.NAME).unlink(missing_ok=True)  # of an index that was removed
                    for name, schema in SCHEMAS.items():
                        database.create_table(name, schema=schema, exist_ok=True)
                    # last: it makes an index
                    database.create_table("segments", schema=segments_schema(settings), exist_ok=True)
                if not is_remote(uri):
                    integrity.record(Path(uri))
            return cls(uri, Settings.read(uri, database.open_table("segments").schema))

    @classmethod
    def open(cls, uri: str) -> Store:
        """Raises: SearchIndexError if there is none, or one of a schema that cannot be read."""
        store = cls.open_if_there(uri)
        if store is None:
            raise SearchIndexError(f"{uri}: no search index there; make one: clipvip index DIR --model M --index {uri}")
        return store

    @classmethod
    def open_if_there(cls, uri: str) -> Store | None:
        """None if there is no index. Raises: SearchIndexError for one of a schema that cannot be read."""
        if not is_remote(uri) and not os.path.isdir(uri):
            return None  # connecting would make the folder
        if (facts := read_facts(uri)) is not None:
            integrity.check_newest(Path(uri))
            return cls(uri, facts.settings, facts=facts)
        with lance_errors(uri, "cannot be read"):
            database = connect(uri)
            if not has_segments(database):
                return None
            schema = database.open_table("segments").schema
        return cls(uri, Settings.read(uri, schema))

    def refresh(self) -> None:
        for table in self._tables:
            table.checkout_latest()

    def videos(self, where: str | None = None) -> dict[str, VideoRecord]:
        """Indexed files by video_id."""
        names = self.segments.schema.names
        query = self.segments.search().select([*FILE_COLUMNS, *(name for name in RULE_COLUMNS if name in names)])
        rows = self.read(query.where(where) if where else query)
        for name, kind in RULE_COLUMNS.items():
            if name not in names:
                rows = rows.append_column(name, pa.nulls(len(rows), kind))
        place = rows.schema.get_field_index("reading_rules")
        rows = rows.set_column(place, "reading_rules", pc.fill_null(rows["reading_rules"], FIRST_RULES))
        counts = [([], "count_all"), ("reading_rules", "min"), ("num_windows", "max")]
        grouped = rows.group_by(list(FILE_COLUMNS)).aggregate(counts)
        grouped = grouped.select([*FILE_COLUMNS, "count_all", "reading_rules_min", "num_windows_max"])
        names = [*FILE_COLUMNS, "num_segments", *RULE_COLUMNS]
        return {row["video_id"]: VideoRecord(**row) for row in grouped.rename_columns(names).to_pylist()}

    def given_videos(self) -> set[str]:
        query = self.segments.search().where("segment_id LIKE '%-given'").select(["video_id"])
        return set(self.read(query)["video_id"].to_pylist())

    def segments_of(self, video_id: str) -> list[Segment]:
        """In the order of time."""
        query = self.segments.search().where(among("video_id", [video_id]))
        rows = self.read(query.select(["segment_id", "video_id", "start_s", "end_s"])).sort_by(BY_TIME)
        return [Segment(**row) for row in rows.to_pylist()]

    def vectors_of(self, video_id: str) -> tuple[list[Segment], np.ndarray]:
        """The same, with their vectors float32 [n, E]."""
        rows = self.read(self.segments.search().where(among("video_id", [video_id])))
        rows = self.checked(rows.sort_by(BY_TIME))
        columns = ["segment_id", "video_id", "start_s", "end_s"]
        return [Segment(**row) for row in rows.select(columns).to_pylist()], vectors_of(rows)

    def thumbnail(self, segment_id: str) -> bytes | None:
        """The JPEG of a segment's middle frame; None if there is no such segment, or if the JPEG is damaged."""
        found = self.read(self.thumbnails.search().where(among("segment_id", [segment_id])).limit(1)).to_pylist()
        return bytes(found[0]["jpeg"]) if found and not is_damaged_thumbnail(found[0]) else None

    def vector(self, segment_id: str) -> np.ndarray:
        """float32 [E]. Raises: SearchIndexError if there is no such segment."""
        found = self.checked(self.read(self.segments.search().where(among("segment_id", [segment_id]))))
        if not len(found):
            raise SearchIndexError(
                f"{self.uri}: no segment {segment_id!r} there; `clipvip search --json` tells the ids"
            )
        return np.array(found["vector"][0].as_py(), np.float32)

    def root_names(self) -> list[str]:
        """The folders that were added, sorted."""
        return sorted(set(self.read(self.roots)["root"].to_pylist()))

    def failed_files(self) -> list[tuple[VideoFile, str]]:
        rows = self.read(self.failures).to_pylist()
        return [
            (VideoFile(row["root"], row["path"], row["size_bytes"], row["mtime_ns"]), row["reason"]) for row in rows
        ]

    def num_bytes(self) -> int:
        """Of the whole index: of a folder on disk, or of the newest version of its tables."""
        if not is_remote(self.uri):
            return folder_bytes(Path(self.uri))
        return sum(table.stats()["total_bytes"] for table in self._tables)

    def read(self, query: Any) -> Any:
        """What a query, or a table, holds, as a pyarrow table. Raises: SearchIndexError if that is damaged."""
        with lance_errors(self.uri, "cannot be read"):
            rows = query.to_arrow()
            rows.validate(full=True)  # text that is no UTF-8
            return rows

    def checked(self, rows: Any) -> Any:
        """`rows` of segments with all their columns. Raises: SearchIndexError if one is not as it was written."""
        damaged = damaged_rows(rows)
        if damaged.any():
            first = rows.slice(int(np.flatnonzero(damaged)[0]), 1).to_pylist()[0]
            raise SearchIndexError(
                f"{self.uri}: damaged: {damaged.sum()} of {len(rows)} segments that were read are not as they were "
                f"written, such as one of {Path(first['root'], first['path'])}; `clipvip library verify --index "
                f"{self.uri}` takes their videos out"
            )
        return rows

    def background_queries(self) -> tuple[list[str], np.ndarray, str] | None:
        """The texts, their vectors float32 [B, E], and the fingerprint of the model of these.

        Raises: SearchIndexError if they are not as they were written.
        """
        if (table := self.background) is None:
            return None
        rows = self.read(table)
        metadata = rows.schema.metadata or {}
        if not {"text", "vector"} <= set(rows.column_names) or metadata.get(CHECKSUM) not in (None, _checksum(rows)):
            raise SearchIndexError(
                f"{self.uri}: its background queries are damaged; `clipvip library verify --index {self.uri}` "
                "removes them, and clipvip's own take their place"
            )
        return rows["text"].to_pylist(), vectors_of(rows), metadata.get(FINGERPRINT, b"").decode()

    def set_background(self, texts: Sequence[str], vectors: np.ndarray, *, upgrade: bool = True) -> None:
        column = pa.FixedSizeListArray.from_arrays(vectors.ravel(), self.settings.embedding_size)
        rows = pa.table({"text": list(texts), "vector": column})
        rows = rows.replace_schema_metadata({FINGERPRINT: self.settings.fingerprint, CHECKSUM: _checksum(rows)})

        def write() -> None:  # LanceDB warns of overwriting a table that does not exist
            mode = "create" if self.background is None else "overwrite"
            self.database.create_table("background", rows, mode=mode)

        self.write(write, upgrade=upgrade)

    def apply(self, changes: Changes) -> list[KnownContent]:
        """Make changes. Returns: files of known content whose content is in the index no more.

        A kill leaves each file as it was or as it shall be: failures are noted first, then files are written, each
        as a whole, then others removed.
        """

        def write() -> list[KnownContent]:
            if changes.failures or changes.solved:
                self._note(changes.failures, changes.solved)
            lost: list[KnownContent] = []
            for start in range(0, len(changes.writes), FILES_PER_VERSION):
                lost += write_files(self, changes.writes[start : start + FILES_PER_VERSION])
            delete_videos(self, changes.removed)
            return lost

        lost = self.write(write)
        if is_remote(self.uri):  # another process may have written the same videos at the same moment
            self.keep_one_copy([each.video.file.video_id for each in changes.writes])
        return lost

    def _note(self, failures: Sequence[tuple[VideoFile, str]], solved: Sequence[VideoFile]) -> None:
        """Keep the reasons of files that could not be indexed, or only in part; forget those of the files `solved`."""
        rows = [
            {"root": _utf8(f.root), "path": _utf8(f.path), "size_bytes": f.size_bytes, "mtime_ns": f.mtime_ns,
             "reason": _utf8(reason)}
            for f, reason in failures
        ]  # fmt: skip
        stale = {(_utf8(file.root), _utf8(file.path)) for file in (*solved, *(file for file, _ in failures))}
        known = self.failures.to_arrow()
        kept = [row for row in known.to_pylist() if (row["root"], row["path"]) not in stale]
        if rows or len(kept) < len(known):
            self.failures.add(pa.Table.from_pylist([*kept, *rows], schema=FAILURES), mode="overwrite")

    def second_copies(self) -> int:
        return sum(len(surplus) for _, surplus in find_copies(self))

    def keep_one_copy(self, video_ids: Sequence[str] | None = None) -> None:
        """Delete second copies, which two processes at an object store may write, of these videos' rows, or of all.

        All processes choose the same ones to keep: the newest that is as it was written, then the first.
        """

        def write() -> None:
            for table, surplus in find_copies(self, video_ids):
                for part in split(surplus):
                    table.delete(f"_rowid IN ({', '.join(map(str, part))})")

        if find_copies(self, video_ids):
            self.write(write)

    def make_again(self, name: str, rows: Any) -> None:
        """Replace a table that is damaged. rows: a pyarrow table."""
        self.write(lambda: setattr(self, name, self.database.create_table(name, rows, mode="overwrite")))

    def register(self, roots: Sequence[str]) -> None:
        if not set(roots) <= set(self.root_names()):
            rows = pa.table({"root": sorted(set(roots))}, schema=ROOTS)
            self.write(lambda: upsert(self.roots, "root", rows))
            if is_remote(self.uri):
                self.keep_one_copy([])

    def unregister(self, roots: Sequence[str]) -> None:
        if roots:
            self.write(lambda: delete_among(self.roots, "root", roots))

    def replace_thumbnails(self, segment_ids: Sequence[str], thumbnails: Sequence[tuple[str, bytes]]) -> None:
        """Delete those of some segments, and add others."""
        rows = [
            {"segment_id": segment_id, "jpeg": jpeg, "checksum": thumbnail_checksum(segment_id, jpeg)}
            for segment_id, jpeg in thumbnails
        ]

        def write() -> None:
            delete_among(self.thumbnails, "segment_id", segment_ids)
            if rows:
                self.thumbnails.add(pa.Table.from_pylist(rows, schema=THUMBNAILS))

        self.write(write)

    def tidy(self) -> None:
        """Compact small fragments, and drop versions of the tables that nobody reads any more, where there are such."""
        since = time.time() - KEEP_VERSIONS.total_seconds()

        def write() -> None:
            for table in self._tables:
                *old, _ = table.list_versions()
                small = table.stats()["fragment_stats"]["num_small_fragments"]
                if small >= SMALL_FRAGMENTS or any(version["timestamp"].timestamp() < since for version in old):
                    table.optimize(cleanup_older_than=KEEP_VERSIONS)

        self.write(write)

    def write(self, change: Callable[[], T], *, upgrade: bool = True) -> T:
        """`change()` on the latest version of the tables, alone as far as the store allows.

        upgrade: an index of an older schema gets the current one first; otherwise `change` leaves the segments alone.
        Raises: SearchIndexError if it cannot be written; what was committed before stays.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with lance_errors(self.uri, "cannot be written"), write_lock(self.uri):
                    self.refresh()
                    if upgrade:
                        self._upgrade_schema()
                    outcome = change()
                    if not is_remote(self.uri) and not missing_columns(self.segments.schema):
                        integrity.record(Path(self.uri))
                    return outcome
            except SearchIndexError as error:
                if "conflict" not in str(error.__cause__).lower() or attempt == ATTEMPTS:
                    raise
                time.sleep(random.uniform(0, FIRST_WAIT_S * 2**attempt))  # or the same processes collide again
        raise AssertionError("unreachable")

    def _upgrade_schema(self) -> None:
        """Add the columns that an index of schema 2 lacks. A kill leaves the old schema or the new one.

        The columns show which schema an index has; its metadata, which LanceDB cannot change, names the first one. Only
        new, empty columns are written, and indices of other columns stay.
        """
        if missing := missing_columns(self.segments.schema):
            if "checksum" not in self.thumbnails.schema.names:
                self.thumbnails.add_columns(pa.schema(list(CHECKSUM_COLUMN.items())))
            self.segments.add_columns(pa.schema(missing))  # last: these columns show which schema an index has
            logger.warning("%s: upgraded from schema %d to %d", self.uri, OLD_SCHEMA, SCHEMA_VERSION)
        self.settings = replace(self.settings, schema_version=SCHEMA_VERSION)


def _checksum(rows: Any) -> bytes:
    return f"{np.bitwise_xor.reduce(row_checksums(rows, ['text', 'vector'])):d} {len(rows)}".encode()


def _utf8(text: str) -> str:
    """Text as a table can hold it: messages and names may have halves of characters."""
    return text.encode(errors="backslashreplace").decode()
