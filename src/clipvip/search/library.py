"""A library of videos that can be searched: an index with the model that it was made with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from clipvip.errors import SearchIndexError, UsageError
from clipvip.search.query import Query, Term
from clipvip.search.results import Results
from clipvip.search.scan import EncodedVideo, Found, Skipped, VideoFile, find_videos
from clipvip.search.searching import Searcher, query_vector
from clipvip.search.segments import STRIDE_SHARE, WINDOW_S, check_windows
from clipvip.search.snapshot import cache_folder, open_snapshot
from clipvip.search.store import Segment, Settings, Store, VideoRecord

if TYPE_CHECKING:
    from clipvip.embedding_sets import EmbeddingSet
    from clipvip.encode import Encoder

COMMIT_FILES, COMMIT_S = 64, 30.0
"""An interrupted run loses at most this much; more commits would make more versions to clean up."""

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class IndexSummary:
    """What one run of `Library.add` did: encoded files with their segments and hours, and the others."""

    videos: int = 0
    segments: int = 0
    hours: float = 0.0
    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    skipped: list[Skipped] = field(default_factory=list)


class Library:
    """A search index, which the first `add` makes.

    uri: a folder, or whatever LanceDB takes (s3://...). model: a model folder, hub id or `Encoder`; needed to make an
    index, otherwise the one it was made with. windows_s, strides_s: how long the segments are that videos are cut into,
    and how far apart they begin (half of that by default); one pair or several. device, dtype: as `clipvip.load`.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        model: str | os.PathLike[str] | Encoder | None = None,
        *,
        windows_s: float | Sequence[float] | None = None,
        strides_s: float | Sequence[float] | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ):
        uri = os.fspath(uri)
        self.uri = uri if "://" in uri else os.path.expanduser(uri)
        self._model: str | None = None
        self._encoder: Encoder | None = None
        if isinstance(model, str | os.PathLike):
            self._model = os.path.expanduser(model)
        else:
            self._encoder = model
        self._scales = _scales(windows_s, strides_s)
        self._device, self._dtype = device, dtype
        self._store = Store.open(self.uri) if Store.exists(self.uri) else None
        self._searcher: Searcher | None = None

    @property
    def exists(self) -> bool:
        """Whether there is an index yet."""
        return self._store is not None

    @property
    def store(self) -> Store:
        """The tables. Raises: SearchIndexError if there is no index yet."""
        if self._store is None:
            self._store = Store.open(self.uri)
        return self._store

    @property
    def settings(self) -> Settings:
        """What the index was made with."""
        return self.store.settings

    @property
    def roots(self) -> list[str]:
        """The folders that were added."""
        return self.store.root_names()

    @property
    def encoder(self) -> Encoder:
        """The model, loaded when it is first needed.

        Raises: SearchIndexError if it is not the one that the index was made with; UsageError if none is named.
        """
        if self._encoder is None:
            from clipvip.encode import load

            model = self._model or (self.settings.model if self.exists else None)
            if not model:
                raise UsageError(
                    f"{self.uri}: which model? A new index needs one, and so does one whose model has none"
                )
            self._encoder = load(model, device=self._device, dtype=self._dtype)
        if self._store is not None:
            self.check_encoder(self._encoder)
        return self._encoder

    def refresh(self) -> None:
        """See what other processes have committed."""
        self.store.refresh()

    def check_encoder(self, encoder: Encoder | EmbeddingSet) -> None:
        """Raises: SearchIndexError if the vectors of `encoder` do not compare with those of this index."""
        if encoder.fingerprint != self.settings.fingerprint:
            raise SearchIndexError(
                f"{self.uri}: made with {self.settings.model} (fingerprint {self.settings.fingerprint}), not with this "
                f"model ({encoder.fingerprint}): use that one or another --index"
            )

    def add(
        self, dirs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, on_progress: Progress | None = None
    ) -> IndexSummary:
        """Index the video files below some folders, or single files; those that are indexed and unchanged cost nothing.

        A file counts as unchanged if its path, size and modification time are. A changed one replaces its segments.
        Files that cannot be read are skipped. Work is committed every now and then: after an interruption the same call
        goes on. on_progress: called with the number of files done and the number of all.
        Raises: SearchIndexError for another model; UsageError if a folder does not exist; ClipVipError for no files.
        """
        dirs = [dirs] if isinstance(dirs, str | os.PathLike) else list(dirs)
        found = find_videos(dirs, self.roots if self.exists else ())
        encoder = self.encoder
        settings = self._made(encoder, encoder.source).settings

        def encode(new: list[VideoFile]) -> Iterator[EncodedVideo | Skipped]:
            from clipvip.search.ingest import encode_files

            return encode_files(new, encoder, settings.windows_s[0], settings.strides_s[0])

        return self._add(found, encode, on_progress)

    def add_embeddings(self, embeddings: EmbeddingSet, *, on_progress: Progress | None = None) -> IndexSummary:
        """Index the video clips of an embedding set (see `clipvip encode`), one segment a clip, without thumbnails.

        Otherwise as `add`, which brings thumbnails when the files change. Raises: SearchIndexError for another model.
        """
        from clipvip.search.stored import StoredVideos

        self._made(embeddings, embeddings.facts[0].model)
        videos = StoredVideos(embeddings, self.roots)
        return self._add(videos.found, videos.encoded, on_progress)

    def search(self, query: str | Query, k: int = 10, **fields: Any) -> Results:
        """The best answers to a text or a `Query`. With a text, `k` and `fields` are those of the query.

        Raises: UsageError for a query that makes no sense; SearchIndexError for another model or an unknown segment;
        VideoDecodeError for an image or video that cannot be read.
        """
        if isinstance(query, str):
            query = Query(terms=(Term(text=query),), k=k, **fields)
        if self._searcher is None:
            self._searcher = Searcher(self.uri, self.store.segments, self.settings.embedding_size)
        return self._searcher.answer(query, lambda: self.encoder, self.store.vector)

    def timeline(self, video_id: str, query: str | Query) -> list[tuple[Segment, float]]:
        """How well each segment of a file answers (cosine), in the order of time. Of a query only the terms count.

        Raises: as `search`.
        """
        terms = Query(terms=(Term(text=query),)).terms if isinstance(query, str) else query.terms
        vector = query_vector(terms, self.settings.embedding_size, lambda: self.encoder, self.store.vector)
        segments, vectors = self.store.vectors_of(video_id)
        return list(zip(segments, (vectors @ vector).tolist(), strict=True))

    def video(self, video_id: str) -> VideoRecord | None:
        """What is known of an indexed file."""
        return self.store.videos(f"video_id = '{_word(video_id)}'").get(video_id)

    def segments_of(self, video_id: str) -> list[Segment]:
        """The segments of a file, in the order of time."""
        return self.store.segments_of(video_id)

    def thumbnail(self, segment_id: str) -> bytes | None:
        """The JPEG of a segment's middle frame, or None if there is no such segment."""
        return self.store.thumbnail(segment_id)

    @property
    def _contents(self) -> tuple[Any, np.ndarray]:
        return open_snapshot(self.store.segments, self.settings.embedding_size, cache_folder(self.uri))

    def _made(self, encoder: Encoder | EmbeddingSet, model: str | None) -> Store:
        """The tables, made if they are not there, and checked against what is wanted of them."""
        windows_s, strides_s = self._scales or ((WINDOW_S,), (WINDOW_S * STRIDE_SHARE,))
        if self._store is None:
            source = os.path.abspath(model) if model and os.path.isdir(model) else model or ""
            settings = Settings(source, encoder.fingerprint, encoder.embedding_size, windows_s, strides_s)
            self._store = Store.create(self.uri, settings)
        self.check_encoder(encoder)
        own = self.settings.windows_s, self.settings.strides_s
        if self._scales is not None and self._scales != own:
            raise UsageError(
                f"--window {_listed(windows_s)} --stride {_listed(strides_s)}: {self.uri} was made with "
                f"{_listed(own[0])} and {_listed(own[1])}; leave them out, or use another --index"
            )
        return self._store

    def _add(
        self,
        found: Found,
        encode: Callable[[list[VideoFile]], Iterator[EncodedVideo | Skipped]],
        on_progress: Progress | None,
    ) -> IndexSummary:
        """Index those of the files that are new or changed."""
        store = self.store
        store.register(found.roots)
        indexed = {video.absolute: video for video in store.videos().values()}
        new = [
            file
            for file in found.files
            if (old := indexed.get(file.absolute)) is None or (old.size_bytes, old.mtime_ns) != file.state
        ]
        summary = IndexSummary(unchanged=len(found.files) - len(new), skipped=list(found.skipped))
        waiting: list[EncodedVideo] = []
        failed: list[Skipped] = []
        outdated: list[str] = []
        last_commit, changed = time.monotonic(), bool(new)

        def commit() -> None:
            nonlocal last_commit
            store.replace(waiting, outdated)
            store.note(
                [(skipped.file, skipped.reason) for skipped in failed if skipped.file is not None],
                [video.file for video in waiting],
            )
            for done in (waiting, failed, outdated):
                done.clear()
            last_commit = time.monotonic()

        for num_done, outcome in enumerate(encode(new), start=summary.unchanged + 1):
            old = indexed.get(outcome.video if isinstance(outcome, Skipped) else outcome.file.absolute)
            if old is not None:
                outdated.append(old.video_id)
            if isinstance(outcome, Skipped):
                summary.skipped.append(outcome)
                failed.append(outcome)
            else:
                summary.videos += 1
                summary.segments += len(outcome.segments)
                summary.hours += outcome.duration_s / 3600
                waiting.append(outcome)
            if len(waiting) == COMMIT_FILES or time.monotonic() - last_commit > COMMIT_S:
                commit()
            if on_progress is not None:
                on_progress(num_done, len(found.files))
        commit()
        if changed:
            store.tidy()
        return summary


def _scales(
    windows_s: float | Sequence[float] | None, strides_s: float | Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Windows, longest first, with their strides; None if nothing is asked for. Raises: UsageError."""
    if windows_s is None and strides_s is None:
        return None
    windows = (windows_s,) if isinstance(windows_s, int | float) else tuple(windows_s or (WINDOW_S,))
    strides = (strides_s,) if isinstance(strides_s, int | float) else tuple(strides_s or ())
    if not strides:
        strides = tuple(window_s * STRIDE_SHARE for window_s in windows)
    if len(strides) != len(windows) or len(set(windows)) < len(windows):
        raise UsageError(
            f"windows of {_listed(windows)} s, strides of {_listed(strides)} s: give each window once, and a stride "
            "for each or none at all"
        )
    pairs = sorted(((float(window_s), float(stride_s)) for window_s, stride_s in zip(windows, strides, strict=True)))
    for window_s, stride_s in pairs:
        check_windows(window_s, stride_s)
    return tuple(pair[0] for pair in reversed(pairs)), tuple(pair[1] for pair in reversed(pairs))


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _word(video_id: str) -> str:
    """As it may stand in a condition."""
    return video_id.replace("'", "''")
