"""The LanceDB tables of an index: what is in them, and how they change.

`segments` has a row a segment (see `tables`), and its schema carries the settings of the index; `thumbnails` has
a JPEG a segment; `failures` a row a file that could not be indexed; `roots` a row a folder that was added. A file is in
`segments` as a whole or not at all. Shapes: n segments of a video, E embedding size.
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
from clipvip.search.index._lance import alone, connect, has_segments, is_remote, one_line_errors
from clipvip.search.index.checksums import thumbnail_checksum
from clipvip.search.index.copies import find_copies
from clipvip.search.index.facts import Facts, read_facts
from clipvip.search.index.integrity import check_newest
from clipvip.search.index.mmap_cache import version_key
from clipvip.search.index.scan import EncodedVideo, KnownContent, VideoFile
from clipvip.search.index.schema import (
    CHECKSUM_COLUMN,
    FAILURES,
    FILE_COLUMNS,
    FIRST_RULES,
    NEW_COLUMNS,
    ROOTS,
    RULE_COLUMNS,
    SCHEMA_VERSION,
    SEGMENT_COLUMNS,
    THUMBNAILS,
    Segment,
    Settings,
    VideoRecord,
    among,
    damaged_rows,
    damaged_settings,
    moved,
    read_settings,
    rows_of,
    segments_schema,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)
OLD_SCHEMA = 2
"""The oldest that can be read: segments without `NEW_COLUMNS`."""
KEEP_VERSIONS = timedelta(hours=1)
"""For readers that are at work while a run ends."""
SMALL_FRAGMENTS = 8
"""So many are gathered; that writes large ones anew, too."""
BY_TIME = [("start_s", "ascending"), ("end_s", "ascending"), ("segment_id", "ascending")]
ATTEMPTS, FIRST_WAIT_S = 8, 0.05
"""At a commit that another process was quicker with (object stores; a folder has a lock): tries, and the longest wait
before the second one, which doubles with each."""


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
        """LanceDB's connection."""
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
        """One JPEG per segment."""
        return self._open_table("thumbnails")

    @cached_property
    def failures(self) -> Any:
        """One row per file that could not be indexed."""
        return self._open_table("failures")

    @cached_property
    def roots(self) -> Any:
        """One row per folder that was added."""
        return self._open_table("roots")

    def _open_table(self, name: str) -> Any:
        with one_line_errors(self.uri, "cannot be read"):
            return self.database.open_table(name)

    @property
    def facts(self) -> Facts | None:
        """What is known of the segments as long as their table has not been opened."""
        return None if "segments" in self.__dict__ else self._facts

    @property
    def version(self) -> int:
        """Of the segments."""
        return self.facts.version if self.facts else self.segments.version

    @property
    def version_key(self) -> str:
        """Names the content of the segments."""
        return self.facts.key if self.facts else version_key(self.segments)

    @property
    def num_segments(self) -> int:
        """How many segments there are."""
        return self.facts.num_rows if self.facts else self.segments.count_rows()

    @classmethod
    def create(cls, uri: str, settings: Settings, *, anew: bool = False) -> Store:
        """A new, empty index; or the one that another process has made meanwhile.

        anew: in place of the one that is there, of which only the folders that were added stay.
        """
        with one_line_errors(uri, "cannot be written"):
            database = connect(uri)
            with alone(uri):
                there = has_segments(database)
                if anew and there:
                    for name in set(database.list_tables().tables) - {"segments", "roots"}:
                        schema = {"thumbnails": THUMBNAILS, "failures": FAILURES}.get(name)
                        if schema is None:  # made of the vectors of the other model
                            database.drop_table(name)
                        else:
                            database.create_table(name, schema=schema, mode="overwrite")
                    database.create_table("segments", schema=segments_schema(settings), mode="overwrite")
                elif not there:
                    if not is_remote(uri):
                        Path(uri, integrity.NAME).unlink(missing_ok=True)  # of an index that was removed
                    for name, schema in (("thumbnails", THUMBNAILS), ("failures", FAILURES), ("roots", ROOTS)):
                        database.create_table(name, schema=schema, exist_ok=True)
                    # last: it makes an index
                    database.create_table("segments", schema=segments_schema(settings), exist_ok=True)
                if not is_remote(uri):
                    integrity.record(Path(uri))
        return cls.open(uri)

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
        if (facts := read_facts(uri)) is not None:
            check_newest(Path(uri))
            return cls(uri, facts.settings, facts=facts)
        if not cls._exists(uri):
            return None
        with one_line_errors(uri, "cannot be read"):
            schema = connect(uri).open_table("segments").schema
        values = read_settings(uri, schema)
        version = values.get("schema_version")
        if not isinstance(version, int) or version < OLD_SCHEMA:
            raise SearchIndexError(
                f"{uri}: an index of schema {version}, this clipvip reads {OLD_SCHEMA} to {SCHEMA_VERSION}; "
                "index again elsewhere"
            )
        newer = set(schema.names) - {*SEGMENT_COLUMNS, *NEW_COLUMNS, "vector"}  # upgraded tables keep their metadata
        if version > SCHEMA_VERSION or newer:
            what = f"schema {version}" if version > SCHEMA_VERSION else f"with columns {', '.join(sorted(newer))}"
            raise SearchIndexError(f"{uri}: made by a newer clipvip ({what}); upgrade clipvip")
        values["schema_version"] = SCHEMA_VERSION if not _missing_columns(schema) else OLD_SCHEMA
        try:
            settings = Settings.of(values)
        except (KeyError, TypeError) as error:
            raise damaged_settings(uri, error) from None
        return cls(uri, settings)

    @staticmethod
    def _exists(uri: str) -> bool:
        if not is_remote(uri) and not os.path.isdir(uri):
            return False  # connecting would make the folder
        with one_line_errors(uri, "cannot be read"):
            return has_segments(connect(uri))

    def refresh(self) -> None:
        """See what other processes have committed."""
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
        """The video_ids whose segments were not cut by the index (see `segment_id_of`)."""
        query = self.segments.search().where("segment_id LIKE '%-given'").select(["video_id"])
        return set(self.read(query)["video_id"].to_pylist())

    def segments_of(self, video_id: str) -> list[Segment]:
        """In the order of time."""
        query = self.segments.search().where(among("video_id", [video_id]))
        rows = self.read(query.select(["segment_id", "video_id", "start_s", "end_s"])).sort_by(BY_TIME)
        return [Segment(**row) for row in rows.to_pylist()]

    def vectors_of(self, video_id: str) -> tuple[list[Segment], np.ndarray]:
        """The same, with their vectors float32 [n, E]."""
        columns = ["segment_id", "video_id", "start_s", "end_s"]
        query = self.segments.search().where(among("video_id", [video_id]))
        rows = self.checked(self.read(query).sort_by(BY_TIME))
        vectors = rows["vector"].combine_chunks().flatten().to_numpy().reshape(-1, self.settings.embedding_size)
        return [Segment(**row) for row in rows.select(columns).to_pylist()], vectors

    def thumbnail(self, segment_id: str) -> bytes | None:
        """The JPEG of a segment's middle frame; None if there is no such segment, or if the JPEG is damaged."""
        found = self.read(self.thumbnails.search().where(among("segment_id", [segment_id])).limit(1)).to_pylist()
        if not found or is_damaged_thumbnail(found[0]):
            return None
        return bytes(found[0]["jpeg"])

    def vector(self, segment_id: str) -> np.ndarray:
        """float32 [E]. Raises: SearchIndexError if there is no such segment."""
        found = self.checked(self.read(self.segments.search().where(among("segment_id", [segment_id]))))
        if not len(found):
            raise SearchIndexError(
                f"{self.uri}: no segment {segment_id!r} there; `clipvip search --json` tells the ids"
            )
        return np.array(found["vector"][0].as_py(), np.float32)

    def replace(
        self, videos: Sequence[EncodedVideo], copies: Sequence[KnownContent] = (), outdated: Sequence[str] = ()
    ) -> list[KnownContent]:
        """Write these videos, and delete those of the video_ids `outdated`, at once.

        copies: get the segments of a video with the same content, of these or in the index.
        Returns: copies of which there is none.
        """
        if not (videos or copies or outdated):
            return []
        ids = sorted({*outdated, *(video.file.video_id for video in videos), *(c.file.video_id for c in copies)})
        new_rows, new_thumbnails = rows_of(videos, self.settings.embedding_size)

        def write() -> list[KnownContent]:
            rows, thumbnails = [new_rows], [new_thumbnails]
            lost = []
            sources = self._sources(sorted({copy.content_hash for copy in copies}), new_rows, new_thumbnails)
            for copy in copies:
                if copy.content_hash in sources:
                    for tables, table in zip((rows, thumbnails), sources[copy.content_hash], strict=True):
                        tables.append(moved(table, copy.file))
                else:
                    lost.append(copy)
            told, shown = pa.concat_tables(rows), pa.concat_tables(thumbnails)
            old = self.segments.search().where(among("video_id", ids)).select(["segment_id"]).to_arrow()
            left = set(old["segment_id"].to_pylist()) - set(told["segment_id"].to_pylist())
            # A kill between the two leaves thumbnails without a segment, which nobody sees, never the reverse.
            _upsert(self.thumbnails, "segment_id", shown)
            if not left:
                _upsert(self.segments, "segment_id", told)
            elif len(told):
                _upsert(self.segments, "segment_id", told, delete=among("video_id", ids))  # reads the whole table
            else:
                self.segments.delete(among("video_id", ids))
            if left:
                self.thumbnails.delete(among("segment_id", sorted(left)))
            return lost

        lost = self.write(write)
        if is_remote(self.uri):  # another process may have written the same videos at the same moment
            self.keep_one_copy(ids)
        return lost

    def second_copies(self) -> int:
        """How many rows of the tables have the key of another one."""
        return sum(len(surplus) for _, surplus in find_copies(self))

    def keep_one_copy(self, video_ids: Sequence[str] | None = None) -> None:
        """Delete second copies, which two processes at an object store may write, of these videos' rows, or of all.

        All processes choose the same ones to keep: the newest that is as it was written, then the first.
        """

        def write() -> None:
            for table, surplus in find_copies(self, video_ids):
                table.delete(f"_rowid IN ({', '.join(map(str, surplus))})")

        if find_copies(self, video_ids):
            self.write(write)

    def make_again(self, name: str, rows: Any) -> None:
        """Replace a table that is damaged. rows: a pyarrow table, or names of roots."""

        def write() -> None:
            table = pa.table({"root": rows}, schema=ROOTS) if name == "roots" else rows
            setattr(self, name, self.database.create_table(name, table, mode="overwrite"))

        self.write(write)

    def _sources(self, hashes: Sequence[str], rows: Any, thumbnails: Any) -> dict[str, tuple[Any, Any]]:
        """By content hash the segments of one video that has it, stored or among these `rows`, and their thumbnails."""
        if not hashes:
            return {}
        stored = self.segments.search().where(among("content_hash", hashes)).to_arrow()
        damaged = pc.unique(stored["content_hash"].filter(pa.array(damaged_rows(stored))))
        stored = stored.filter(pc.invert(pc.is_in(stored["content_hash"], damaged)))  # its file is encoded again
        stored = stored.select(rows.column_names).cast(rows.schema).sort_by([("reading_rules", "descending")])
        sources: dict[str, tuple[Any, Any]] = {}
        for content_hash in hashes:
            same = rows.filter(pc.equal(rows["content_hash"], content_hash))
            if not len(same):  # never of both: another process may have stored the very video that is being written
                same = stored.filter(pc.equal(stored["content_hash"], content_hash))
            if len(same):
                same = same.filter(pc.equal(same["video_id"], same["video_id"][0]))
                ids = same["segment_id"].to_pylist()
                kept = self.thumbnails.search().where(among("segment_id", ids)).to_arrow().select(THUMBNAILS.names)
                kept = kept.cast(THUMBNAILS).filter(
                    pa.array([not is_damaged_thumbnail(row) for row in kept.to_pylist()], pa.bool_())
                )
                new = thumbnails.filter(pc.is_in(thumbnails["segment_id"], pa.array(ids, pa.string())))
                sources[content_hash] = same, (new if len(new) else kept)
        return sources

    def note(self, failures: Sequence[tuple[VideoFile, str]], solved: Sequence[VideoFile]) -> None:
        """Keep the reasons of files that could not be indexed, or only in part; forget those of the files `solved`."""
        rows = [
            {"root": _utf8(f.root), "path": _utf8(f.path), "size_bytes": f.size_bytes, "mtime_ns": f.mtime_ns,
             "reason": _utf8(reason)}
            for f, reason in failures
        ]  # fmt: skip
        stale = {(_utf8(file.root), _utf8(file.path)) for file in (*solved, *(file for file, _ in failures))}

        def write() -> None:
            known = self.failures.to_arrow()
            kept = [row for row in known.to_pylist() if (row["root"], row["path"]) not in stale]
            if rows or len(kept) < len(known):
                self.failures.add(pa.Table.from_pylist([*kept, *rows], schema=FAILURES), mode="overwrite")

        self.write(write)

    def register(self, roots: Sequence[str]) -> None:
        """Note that these folders were added."""
        if not set(roots) <= set(self.root_names()):
            rows = pa.table({"root": sorted(set(roots))}, schema=ROOTS)
            self.write(lambda: _upsert(self.roots, "root", rows))
            if is_remote(self.uri):
                self.keep_one_copy([])

    def unregister(self, roots: Sequence[str]) -> None:
        """Forget that these folders were added."""
        if roots:
            self.write(lambda: self.roots.delete(among("root", roots)))

    def replace_thumbnails(self, segment_ids: Sequence[str], thumbnails: Sequence[tuple[str, bytes]]) -> None:
        """Delete those of some segments, and add others."""
        rows = [
            {"segment_id": segment_id, "jpeg": jpeg, "checksum": thumbnail_checksum(segment_id, jpeg)}
            for segment_id, jpeg in thumbnails
        ]

        def write() -> None:
            self.thumbnails.delete(among("segment_id", segment_ids))
            if rows:
                self.thumbnails.add(pa.Table.from_pylist(rows, schema=THUMBNAILS))

        self.write(write)

    def num_bytes(self) -> int:
        """Of the whole index: of a folder on disk, or of the newest version of its tables."""
        if not is_remote(self.uri):
            return folder_bytes(Path(self.uri))
        return sum(table.stats()["total_bytes"] for table in self._tables)

    @property
    def _tables(self) -> tuple[Any, ...]:
        return self.segments, self.thumbnails, self.failures, self.roots

    def root_names(self) -> list[str]:
        """The folders that were added, sorted."""
        return sorted(set(self.read(self.roots)["root"].to_pylist()))

    def failed_files(self) -> list[tuple[VideoFile, str]]:
        """Those that could not be indexed, or only in part, as they were then, and why."""
        rows = self.read(self.failures).to_pylist()
        return [
            (VideoFile(row["root"], row["path"], row["size_bytes"], row["mtime_ns"]), row["reason"]) for row in rows
        ]

    def read(self, query: Any) -> Any:
        """What a query, or a table, holds, as a pyarrow table. Raises: SearchIndexError if that is damaged."""
        with one_line_errors(self.uri, "cannot be read"):
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

    def tidy(self) -> None:
        """Gather small fragments, and drop versions of the tables that nobody reads any more, where there are such."""
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
                with one_line_errors(self.uri, "cannot be written"), alone(self.uri):
                    self.refresh()
                    if upgrade:
                        self._upgrade_schema()
                    outcome = change()
                    if not is_remote(self.uri) and not _missing_columns(self.segments.schema):
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
        if missing := _missing_columns(self.segments.schema):
            if "checksum" not in self.thumbnails.schema.names:
                self.thumbnails.add_columns(pa.schema(list(CHECKSUM_COLUMN.items())))
            self.segments.add_columns(pa.schema(missing))  # last: these columns show which schema an index has
            logger.warning("%s: upgraded from schema %d to %d", self.uri, OLD_SCHEMA, SCHEMA_VERSION)
        self.settings = replace(self.settings, schema_version=SCHEMA_VERSION)


def _missing_columns(schema: Any) -> list[tuple[str, Any]]:
    """The columns of the current schema that a table of segments lacks."""
    return [(name, kind) for name, kind in NEW_COLUMNS.items() if name not in schema.names]


def is_damaged_thumbnail(thumbnail: dict[str, Any]) -> bool:
    """Whether a row of thumbnails is not as it was written; one without a checksum is taken as it is."""
    checksum = thumbnail.get("checksum")
    return checksum is not None and checksum != thumbnail_checksum(thumbnail["segment_id"], thumbnail["jpeg"])


def _utf8(text: str) -> str:
    """Text as a table can hold it: messages and names may have halves of characters."""
    return text.encode(errors="backslashreplace").decode()


def _upsert(table: Any, key: str, rows: Any, delete: str | None = None) -> None:
    """Insert or update `rows` by their key and delete others by a condition, in one version of the table."""
    merge = table.merge_insert(key).when_matched_update_all().when_not_matched_insert_all()
    if delete:
        merge = merge.when_not_matched_by_source_delete(delete)
    merge.execute(rows)
