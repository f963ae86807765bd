"""A library of video segments in a LanceDB folder: what was indexed, with which model, and the nearest to a query.

Two tables: `segments` (small rows, read whole) and `thumbnails` (read one at a time). The schema of `segments`
carries the settings of the index. Shapes: N segments, E embedding size.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from clipvip.embedding_sets import EmbeddingSet
from clipvip.encode import Encoder, load
from clipvip.errors import SearchIndexError
from clipvip.search.ingest import EncodedVideo, Skipped, VideoFile, encode_files, find_videos
from clipvip.search.nearest import COLUMNS, ExactSegments
from clipvip.search.query import Query, Term
from clipvip.search.results import Results
from clipvip.search.searching import answer
from clipvip.search.segments import WINDOW_S, check_windows
from clipvip.search.stored import StoredVideos

try:
    import lancedb
    import pyarrow as pa
except ImportError as error:
    raise SearchIndexError('a search index needs LanceDB: install it with `pip install "clipvip[search]"`') from error

SCHEMA_VERSION = 1
COMMIT_FILES, COMMIT_S = 64, 30.0
"""An interrupted run loses at most this much; more commits would make more versions to clean up."""
_THUMBNAILS = pa.schema([("segment_id", pa.string()), ("jpeg", pa.binary())])
KEEP_VERSIONS = timedelta(hours=1)  # for readers that are at work while a run ends
FILE_COLUMNS = ["segment_id", "root", "path", "size_bytes", "mtime_ns"]

State: TypeAlias = tuple[int, int]
"""Size and modification time of a file: if they are as they were, so is its content."""
_NOT_INDEXED: tuple[State | None, list[str]] = (None, [])


@dataclass(frozen=True, slots=True)
class Settings:
    """What an index was made with. model: a hub id, or the absolute path of a folder; the fingerprint decides."""

    model: str
    fingerprint: str
    embedding_size: int
    window_s: float
    stride_s: float
    schema_version: int = SCHEMA_VERSION


@dataclass(slots=True)
class IndexSummary:
    """What one run of `Library.add` did: encoded files with their segments and hours, and the others."""

    videos: int = 0
    segments: int = 0
    hours: float = 0.0
    unchanged: int = 0
    skipped: list[Skipped] = field(default_factory=list)


class Library:
    """A search index. Get one with `Library.create` or `Library.open`."""

    def __init__(self, uri: str, settings: Settings, segments: Any, thumbnails: Any):
        self.uri = uri
        self.settings = settings
        self._segments = segments
        self._thumbnails = thumbnails

    @classmethod
    def create(
        cls,
        uri: str | os.PathLike[str],
        encoder: Encoder | EmbeddingSet,
        *,
        model: str | os.PathLike[str],
        window_s: float = WINDOW_S,
        stride_s: float | None = None,
    ) -> Library:
        """A new, empty index. model: where `encoder` was loaded from, so that a search can load it again.

        window_s, stride_s: how long videos are cut (see `cut_segments`); the stride is half a window by default.
        Raises: SearchIndexError if there is an index already; UsageError for impossible windows.
        """
        stride_s = window_s / 2 if stride_s is None else stride_s
        check_windows(window_s, stride_s)
        if cls.exists(uri):
            raise SearchIndexError(f"{uri}: there is a search index already; open it, or delete the folder")
        source = os.path.abspath(model) if os.path.isdir(model) else os.fspath(model)
        settings = Settings(source, encoder.fingerprint, encoder.embedding_size, window_s, stride_s)
        database = lancedb.connect(os.fspath(uri))
        database.drop_table("thumbnails", ignore_missing=True)  # left by a run that was killed right here
        database.create_table("thumbnails", schema=_THUMBNAILS)
        database.create_table("segments", schema=_segments_schema(settings))
        return cls.open(uri)

    @classmethod
    def open(cls, uri: str | os.PathLike[str]) -> Library:
        """An existing index. Raises: SearchIndexError if there is none, or one of another schema."""
        if not cls.exists(uri):
            raise SearchIndexError(f"{uri}: no search index there; make one: clipvip index DIR --model M --index {uri}")
        database = lancedb.connect(os.fspath(uri))
        segments = database.open_table("segments")
        settings = json.loads((segments.schema.metadata or {}).get(b"clipvip", b"{}"))
        version = settings.get("schema_version")
        if version != SCHEMA_VERSION:
            raise SearchIndexError(
                f"{uri}: an index of schema {version}, this clipvip reads {SCHEMA_VERSION}; index again elsewhere"
            )
        return cls(os.fspath(uri), Settings(**settings), segments, database.open_table("thumbnails"))

    @staticmethod
    def exists(uri: str | os.PathLike[str]) -> bool:
        """Whether there is an index."""
        uri = os.fspath(uri)
        if "://" not in uri and not os.path.isdir(uri):
            return False  # connecting would make the folder
        return "segments" in lancedb.connect(uri).list_tables().tables

    def check_encoder(self, encoder: Encoder | EmbeddingSet) -> None:
        """Raises: SearchIndexError if the vectors of `encoder` do not compare with those of this index."""
        if encoder.fingerprint != self.settings.fingerprint:
            raise SearchIndexError(
                f"{self.uri}: made with {self.settings.model} (fingerprint {self.settings.fingerprint}), not with this "
                f"model ({encoder.fingerprint}): use that one, choose another --index, or delete the folder"
            )

    def add(
        self,
        dirs: Iterable[str | os.PathLike[str]],
        encoder: Encoder,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> IndexSummary:
        """Index the video files below `dirs`; files that are indexed and unchanged cost nothing.

        A file counts as unchanged if its path, size and modification time are. A changed one replaces its segments.
        Files that cannot be read are skipped. Work is committed every now and then: after an interruption the same call
        goes on. on_progress: called with the number of files done and the number of all.
        Raises: SearchIndexError for another model; UsageError if a folder does not exist; ClipVipError for no files.
        """
        self.check_encoder(encoder)
        files, skipped = find_videos(dirs)

        def encode(new: list[VideoFile]) -> Iterator[EncodedVideo | Skipped]:
            return encode_files(new, encoder, self.settings.window_s, self.settings.stride_s)

        return self._add(files, skipped, encode, on_progress)

    def add_embeddings(
        self, embeddings: EmbeddingSet, *, on_progress: Callable[[int, int], None] | None = None
    ) -> IndexSummary:
        """Index the video clips of an embedding set (see `clipvip encode`), one segment a clip, without thumbnails.

        Otherwise as `add`, which brings thumbnails when the files change. Raises: SearchIndexError for another model.
        """
        self.check_encoder(embeddings)
        videos = StoredVideos(embeddings)
        files, skipped = videos.files()
        return self._add(files, skipped, videos.encoded, on_progress)

    def _add(
        self,
        files: list[VideoFile],
        skipped: list[Skipped],
        encode: Callable[[list[VideoFile]], Iterator[EncodedVideo | Skipped]],
        on_progress: Callable[[int, int], None] | None,
    ) -> IndexSummary:
        """Index those of the files that are new or changed."""
        indexed = self._indexed_files()
        new = [file for file in files if indexed.get(file.absolute, _NOT_INDEXED)[0] != _state(file)]
        summary = IndexSummary(unchanged=len(files) - len(new), skipped=skipped)
        version = self._segments.version
        waiting: list[EncodedVideo] = []
        outdated: list[str] = []
        last_commit = time.monotonic()
        for num_done, outcome in enumerate(encode(new), start=summary.unchanged + 1):
            if isinstance(outcome, Skipped):
                summary.skipped.append(outcome)
                outdated += indexed.get(outcome.video, _NOT_INDEXED)[1]
            else:
                summary.videos += 1
                summary.segments += len(outcome.segments)
                summary.hours += outcome.duration_s / 3600
                waiting.append(outcome)
                outdated += indexed.get(outcome.file.absolute, _NOT_INDEXED)[1]
            if len(waiting) == COMMIT_FILES or time.monotonic() - last_commit > COMMIT_S:
                self._commit(waiting, outdated)
                waiting, outdated, last_commit = [], [], time.monotonic()
            if on_progress is not None:
                on_progress(num_done, len(files))
        self._commit(waiting, outdated)
        if self._segments.version != version:
            for table in (self._segments, self._thumbnails):
                table.optimize(cleanup_older_than=KEEP_VERSIONS)
        return summary

    def search(self, query: str | Query, k: int = 10, **fields: Any) -> Results:
        """The best answers to a text or a `Query`. With a text, `k` and `fields` are those of the query.

        Raises: UsageError for a query that makes no sense; SearchIndexError for another model or an unknown segment;
        VideoDecodeError for an image or video that cannot be read.
        """
        if isinstance(query, str):
            query = Query(terms=(Term(text=query),), k=k, **fields)
        segments = ExactSegments(*self._contents)
        return answer(query, segments, self.settings.embedding_size, lambda: self.encoder, self._vector_of)

    def _vector_of(self, segment_id: str) -> np.ndarray:
        found = self._segments.search().where(_among([segment_id])).select(["vector"]).to_arrow()
        if not len(found):
            raise SearchIndexError(
                f"{self.uri}: no segment {segment_id!r} there; `clipvip search --json` tells the ids"
            )
        return np.array(found["vector"][0].as_py(), np.float32)

    @cached_property
    def encoder(self) -> Encoder:
        """The model of the index, loaded when first needed. Raises: SearchIndexError if it is another one now."""
        encoder = load(self.settings.model)
        self.check_encoder(encoder)
        return encoder

    def thumbnail(self, segment_id: str) -> bytes | None:
        """The JPEG of a segment's middle frame, or None if there is no such segment."""
        found = self._thumbnails.search().where(_among([segment_id])).limit(1).to_arrow()
        return found["jpeg"][0].as_py() if len(found) else None

    @cached_property
    def _contents(self) -> tuple[Any, np.ndarray]:
        """All segments in the order of their ids: rows without vectors, and contiguous float32 [N, E]."""
        rows = self._segments.to_arrow().sort_by("segment_id")
        vectors = rows["vector"].combine_chunks().flatten().to_numpy()
        names = zip(rows["root"].to_pylist(), rows["path"].to_pylist(), strict=True)
        ids = [hashlib.sha256(f"{root}\0{path}".encode()).hexdigest()[:16] for root, path in names]
        rows = rows.append_column("video_id", pa.array(ids, pa.string())).select(COLUMNS)
        return rows, vectors.reshape(len(rows), self.settings.embedding_size)

    def _indexed_files(self) -> dict[Path, tuple[State, list[str]]]:
        """Of every indexed file, its state then and its segments."""
        files: dict[Path, tuple[State, list[str]]] = {}
        for row in self._segments.search().select(FILE_COLUMNS).to_arrow().to_pylist():
            state = row["size_bytes"], row["mtime_ns"]
            files.setdefault(Path(row["root"], row["path"]), (state, []))[1].append(row["segment_id"])
        return files

    def _commit(self, videos: Sequence[EncodedVideo], outdated: Sequence[str]) -> None:
        """Write all rows of these videos in place of the outdated segments."""
        if not videos and not outdated:
            return
        rows, thumbnails = [], []
        for video in videos:
            whole = asdict(video.file) | {"duration_s": video.duration_s}
            for (start_s, end_s), jpeg in zip(video.segments, video.thumbnails, strict=True):
                segment_id = _segment_id(video.file, start_s, end_s)
                rows.append(whole | {"segment_id": segment_id, "start_s": start_s, "end_s": end_s})
                if jpeg is not None:
                    thumbnails.append({"segment_id": segment_id, "jpeg": jpeg})
        size = self.settings.embedding_size
        vectors = np.concatenate([np.empty((0, size), np.float32), *(video.vectors for video in videos)])
        schema = self._segments.schema
        table = pa.Table.from_pylist(rows, schema=schema.remove(schema.get_field_index("vector")))
        table = table.append_column("vector", pa.FixedSizeListArray.from_arrays(vectors.ravel(), size))
        # `segments` comes last: a file counts as indexed once its rows are there
        _replace(self._thumbnails, pa.Table.from_pylist(thumbnails, schema=_THUMBNAILS), outdated)
        _replace(self._segments, table, outdated)
        self.__dict__.pop("_contents", None)


def _segments_schema(settings: Settings) -> Any:
    columns = {
        "segment_id": pa.string(),
        "root": pa.string(),
        "path": pa.string(),
        "size_bytes": pa.int64(),
        "mtime_ns": pa.int64(),
        "duration_s": pa.float64(),
        "start_s": pa.float64(),
        "end_s": pa.float64(),
        "vector": pa.list_(pa.float32(), settings.embedding_size),
    }
    return pa.schema(list(columns.items()), metadata={"clipvip": json.dumps(asdict(settings))})


def _replace(table: Any, rows: Any, outdated: Sequence[str]) -> None:
    """Upsert `rows` by segment_id and delete the outdated ones, in one version of the table."""
    merge = table.merge_insert("segment_id").when_matched_update_all().when_not_matched_insert_all()
    if outdated:
        merge = merge.when_not_matched_by_source_delete(_among(outdated))
    merge.execute(rows)


def _among(segment_ids: Sequence[str]) -> str:
    """An SQL condition."""
    quoted = (segment_id.replace("'", "''") for segment_id in segment_ids)
    return "segment_id IN ('" + "', '".join(quoted) + "')"


def _segment_id(file: VideoFile, start_s: float, end_s: float) -> str:
    # of the absolute path: two folders of one index may hold files of the same name
    return hashlib.sha256(f"{file.absolute.as_posix()} {start_s!r} {end_s!r}".encode()).hexdigest()[:16]


def _state(file: VideoFile) -> State:
    return file.size_bytes, file.mtime_ns
