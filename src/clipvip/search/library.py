"""A library of videos that can be searched: an index with the model that it was made with."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipvip.data import LIBRARY_EXTENSIONS
from clipvip.errors import ClipVipError, SearchIndexError, UsageError
from clipvip.search.index._lance import among, update_ann_index
from clipvip.search.index.maintenance import Status, find_older, forget, prune, status
from clipvip.search.index.records import Outcome, Segment, Skipped, VideoFile, VideoRecord
from clipvip.search.index.scan import ABSENT, find_videos, is_there
from clipvip.search.index.schema import Settings
from clipvip.search.index.store import Store
from clipvip.search.index.update import Encode, IndexSummary, Progress, add_files
from clipvip.search.index.verification import Verification, VerifyProgress, verify
from clipvip.search.query.calibration import choose_texts, set_background
from clipvip.search.query.engine import Searcher
from clipvip.search.query.query import Filters, Query, Results, Term
from clipvip.video import Scales

if TYPE_CHECKING:
    from clipvip.embedding_sets import EmbeddingSet
    from clipvip.encode import EncoderProtocol

WINDOW_S = 12.0
"""Where a model does not say how long the clips were that it was trained on. Those of the released models: 13.4 s."""


class Library:
    """A search index, which the first `add` makes.

    uri: a folder, or whatever LanceDB takes (s3://...). model: a model folder, hub id or encoder (for searches any
    `clipvip.encode.EncoderProtocol`, to index files an `Encoder`); needed to make an index, otherwise the one it was
    made with. device, dtype: as `clipvip.load`.
    windows_s, strides_s: how long the segments are that videos are cut into, and how far apart they begin (half of that
    by default); one pair or several. By default windows are as long as the clips that the model was trained on.
    confined: `add` skips files that a link leads out of their folder, as where others may put links into it.
    shots: cut videos where their pictures do; only a shot that is longer than a window is cut into windows.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        model: str | os.PathLike[str] | EncoderProtocol | None = None,
        *,
        windows_s: float | Sequence[float] | None = None,
        strides_s: float | Sequence[float] | None = None,
        shots: bool | None = None,
        device: str = "auto",
        dtype: str = "auto",
        confined: bool = False,
    ):
        uri = os.fspath(uri)
        if not uri:
            raise UsageError("an index needs a name: a folder, or s3://BUCKET/FOLDER")
        self.uri = uri if "://" in uri else os.path.expanduser(uri)
        self._model: str | None = None
        self._encoder: EncoderProtocol | None = None
        if isinstance(model, str | os.PathLike):
            self._model = os.path.expanduser(model)
        else:
            self._encoder = model
        if windows_s is not None:
            Scales.of(windows_s, strides_s)  # a mistake shall not wait for the model
        self._windows_s, self._strides_s, self._shots = windows_s, strides_s, shots
        self._device, self._dtype, self._confined = device, dtype, confined
        self._store = Store.open_if_there(self.uri)
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
    def encoder(self) -> EncoderProtocol:
        """The model, loaded when it is first needed.

        Raises: SearchIndexError if it is not the one that the index was made with; UsageError if none is named.
        """
        encoder = self._load()
        if self._store is not None:
            self.check_encoder(encoder)
        return encoder

    def _load(self) -> EncoderProtocol:
        if self._encoder is None:
            model = self._model or (self.settings.model if self.exists else None)
            if not model:
                raise UsageError(
                    f"{self.uri}: which model? A new index needs one, and so does one whose model has none"
                )
            from clipvip.encode import load

            self._encoder = load(model, device=self._device, dtype=self._dtype)
        return self._encoder

    def refresh(self) -> None:
        """See what other processes have committed."""
        self.store.refresh()

    def check_encoder(self, encoder: EncoderProtocol) -> None:
        """Raises: SearchIndexError if the vectors of `encoder` do not compare with those of this index."""
        self._check_fingerprint(encoder.fingerprint)

    def add(
        self,
        dirs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
        *,
        exclude: Sequence[str] = (),
        on_progress: Progress | None = None,
        on_hours: Callable[[float], None] | None = None,
    ) -> IndexSummary:
        """Index the video files below some folders, or single files; by default, of all folders that were ever added.

        A file counts as unchanged if its path, size and modification time are, or else its content; one that was moved
        or copied keeps its vectors. A changed one replaces its segments. Files that cannot be read are skipped. Work is
        committed every now and then, files as a whole: after an interruption the same call goes on.
        exclude: gitignore patterns, relative to each folder, for what is left out below it, as are system folders and
        what `.clipvipignore` files name (see `ignoring`). What is in the index already stays until `prune`.
        on_progress: called with the number of files done and the number of all; after the last one, the first run that
        makes a library large (`approximate.EXACT_ROWS`) indexes it for searches. on_hours: with the hours of video that
        were encoded since the last call.
        Raises: SearchIndexError for another model; UsageError if a folder does not exist; ClipVipError for no files.
        """
        again, absent = self._added() if dirs is None else ([], [])
        asked = again if dirs is None else [dirs] if isinstance(dirs, str | os.PathLike) else list(dirs)
        found = find_videos(asked, self.roots if self.exists else (), exclude)
        if dirs is not None and not found.files and not found.skipped:
            names = ", ".join(os.fspath(name) for name in asked)
            left_out = f"; {len(found.left_out)} files and folders are excluded" if found.left_out else ""
            raise ClipVipError(f"{names}: no video files there ({' '.join(LIBRARY_EXTENSIONS)}){left_out}")
        found.skipped += [Skipped(Path(root), ABSENT) for root in absent]
        if self._store is None or self._model is not None or self._encoder is not None:
            from clipvip.encode import local_encoder

            encoder = local_encoder(self.encoder)
            store = self._open_for(self._resolve_settings(encoder, encoder.source))
        else:  # its own model is only loaded if there is something new
            store = self._open_for(self._resolve_settings())
        return self._finish(add_files(store, found, self._encode(store.settings, on_hours), on_progress))

    def upgrade(
        self, *, on_progress: Progress | None = None, on_hours: Callable[[float], None] | None = None
    ) -> IndexSummary:
        """Encode the videos again that were read by older rules than this clipvip's (`clipvip.video.READING_RULES`).

        Other files are not looked at. Each file is replaced as a whole, so that after an interruption the same call
        continues. Segments of embedding sets stay, and so does what cannot be read (`skipped`); a file that has changed
        is indexed as it is now; `missing` counts files that are gone. on_progress, on_hours: as `add`.
        """
        store = self.store
        self._open_for(self._resolve_settings())
        found, num_gone = find_older(store)
        if not found.files:
            return IndexSummary(skipped=found.skipped, missing=num_gone)
        encode = self._encode(store.settings, on_hours)
        summary = self._finish(add_files(store, found, encode, on_progress, upgrade=True))
        summary.missing = num_gone
        return summary

    def _encode(self, settings: Settings, on_hours: Callable[[float], None] | None) -> Encode:
        def encode(files: list[VideoFile], known: Collection[str] | None) -> Iterator[Outcome]:
            from clipvip.encode import local_encoder
            from clipvip.search.index.encode_files import encode_files

            return encode_files(
                files, local_encoder(self.encoder), settings.scales, shots=settings.shots, confined=self._confined,
                known=known, on_hours=on_hours or (lambda hours: None),
            )  # fmt: skip

        return encode

    def rebuild(
        self,
        *,
        exclude: Sequence[str] = (),
        on_progress: Progress | None = None,
        on_hours: Callable[[float], None] | None = None,
    ) -> IndexSummary:
        """Rebuild the index with the model and the windows of this object: all files are encoded again.

        After an interruption `add` goes on. An index that is of this model and these windows already is brought up to
        date. Raises: as `add`.
        """
        from clipvip.encode import local_encoder

        dirs, _ = self._added()
        encoder = local_encoder(self._load())
        settings = self._resolve_settings(encoder, encoder.source)
        own = self.settings
        if replace(settings, model=own.model, schema_version=own.schema_version) != own:
            self._store, self._searcher = Store.create(self.uri, settings, overwrite=True), None
            return self.add(dirs or None, exclude=exclude, on_progress=on_progress, on_hours=on_hours)
        return self.add(exclude=exclude, on_progress=on_progress, on_hours=on_hours)

    def _added(self) -> tuple[list[str], list[str]]:
        """The folders, and single files, that were added and are there; and the folders that are not there."""
        roots = self.roots
        absent = [root for root in roots if not is_there(root)]
        single = [str(v.absolute) for v in self.store.videos().values() if v.root not in roots and v.absolute.is_file()]
        return [*(root for root in roots if root not in absent), *single], absent

    def add_embeddings(self, embeddings: EmbeddingSet, *, on_progress: Progress | None = None) -> IndexSummary:
        """Index the video clips of an embedding set (see `clipvip encode`), one segment per clip, without thumbnails.

        Otherwise as `add`, which brings thumbnails when the files change. Raises: SearchIndexError for another model.
        """
        from clipvip.search.index.encode_files import EmbeddingSetVideos

        store = self._open_for(self._resolve_settings(embeddings, embeddings.facts[0].model))
        videos = EmbeddingSetVideos(embeddings, self.roots)
        return self._finish(add_files(store, videos.found, lambda files, known: videos.encoded(files), on_progress))

    def _finish(self, summary: IndexSummary) -> IndexSummary:
        self.store.write(lambda: update_ann_index(self.store.segments))
        return summary

    def prune(self, exclude: Sequence[str] = (), *, force: bool = False) -> IndexSummary:
        """Take out the videos that are no longer on disk, or that `add` would leave out now.

        Nothing is taken out of a folder that is itself missing or empty, or of whose videos more than half are missing:
        its drive may not be mounted (`skipped`). exclude: as `add`. force: also where more than half are missing.
        """
        return prune(self.store, exclude, force=force)

    def forget(self, root: str | os.PathLike[str]) -> IndexSummary:
        """Take out a folder with all its videos, wherever those are now. Raises: UsageError if it has none."""
        return forget(self.store, Path(os.path.abspath(os.path.expanduser(root))).as_posix())

    def status(self) -> Status:
        """What the index holds, of which folders, and what could not be indexed."""
        return status(self.store)

    def verify(
        self,
        *,
        repair: bool = True,
        content: bool = False,
        on_progress: VerifyProgress = lambda what, done, total: None,
    ) -> Verification:
        """Check all files and rows of the index, and repair what can be repaired.

        content: also read all video files, and compare their content with what was indexed. on_progress: called with
        what is being checked, how much of it is done, and of how much.
        """
        return verify(self.store, repair=repair, content=content, on_progress=on_progress)

    def search(self, query: str | Query, k: int = 10, **fields: Any) -> Results:
        """The best answers to a text or a `Query`. With a text, `k` and `fields` are those of the query.

        Raises: UsageError for a query that makes no sense; SearchIndexError for another model or an unknown segment;
        VideoDecodeError for an image or video that cannot be read, or a part of one that lies beyond its end. What
        needs no model is checked before it is loaded.
        """
        if isinstance(query, str):
            query = Query(terms=(Term(text=query),), k=k, **fields)
        return self._search().answer(query)

    def check(self, filters: Filters) -> None:
        """Raises: UsageError for filters that no search takes, such as a root that is none of this index."""
        self._search().conditions(filters)

    def _search(self) -> Searcher:
        if self._searcher is None:
            self._searcher = Searcher(self.store, lambda: self.encoder)
        return self._searcher

    def set_background(self, texts: Sequence[str]) -> None:
        """Replace the background queries, by which `false_alarm` and `rescore="qbnorm"` go.

        Short texts of the kind that people ask for, or that the model was trained on, and not about this library.

        Raises: UsageError for fewer than 20 different ones; SearchIndexError if the index cannot be written.
        """
        set_background(self.store, choose_texts(texts, "background"), self.encoder)
        self._searcher = None

    def timeline(self, video_id: str, query: str | Query) -> list[tuple[Segment, float]]:
        """How well each segment of a file answers (cosine), in the order of time. Of a query only the terms count.

        Raises: as `search`.
        """
        terms = Query(terms=(Term(text=query),)).terms if isinstance(query, str) else query.terms
        vector = self._search().vector(terms)
        segments, vectors = self.store.vectors_of(video_id)
        return list(zip(segments, (vectors @ vector).tolist(), strict=True))

    def video(self, video_id: str) -> VideoRecord | None:
        """What is known of an indexed file."""
        return self.store.videos(among("video_id", [video_id])).get(video_id)

    def segments_of(self, video_id: str) -> list[Segment]:
        """The segments of a file, in the order of time."""
        return self.store.segments_of(video_id)

    def thumbnail(self, segment_id: str) -> bytes | None:
        """The JPEG of a segment's middle frame, or None if there is no such segment."""
        return self.store.thumbnail(segment_id)

    def _resolve_settings(self, encoder: EncoderProtocol | None = None, model: str | None = None) -> Settings:
        """What was asked for; of what was not, the settings of the index, or else the model's. model: its name."""
        own = self._store.settings if self._store is not None else None
        if own is not None and self._windows_s is None and self._strides_s is None:
            scales = own.scales
        else:
            window_s = own.windows_s[0] if own is not None else (encoder and encoder.clip_duration_s) or WINDOW_S
            scales = Scales.of(window_s if self._windows_s is None else self._windows_s, self._strides_s)
        shots = (own is not None and own.shots) if self._shots is None else self._shots
        if encoder is None:
            return replace(self.settings, windows_s=scales.windows_s, strides_s=scales.strides_s, shots=shots)
        source = os.path.abspath(model) if model and os.path.isdir(model) else model or ""
        return Settings(source, encoder.fingerprint, encoder.embedding_size, scales.windows_s, scales.strides_s, shots)

    def _open_for(self, wanted: Settings) -> Store:
        """The tables, made if there are none. Raises: SearchIndexError or UsageError if they are not as `wanted`."""
        if self._store is None:
            self._store = Store.create(self.uri, wanted)
        own = self._store.settings
        self._check_fingerprint(wanted.fingerprint)
        if (own.scales, own.shots) != (wanted.scales, wanted.shots):
            raise UsageError(
                f"{self.uri}: cut into {_describe_cut(own)}, not into {_describe_cut(wanted)}: leave out "
                "--window, --stride and --segment, rebuild the index (clipvip library rebuild), or use another --index"
            )
        return self._store

    def _check_fingerprint(self, fingerprint: str) -> None:
        if fingerprint != self.settings.fingerprint:
            raise SearchIndexError(
                f"{self.uri}: made with {self.settings.model} (fingerprint {self.settings.fingerprint}), not with this "
                f"model ({fingerprint}): use that one, rebuild the index (clipvip library rebuild), or "
                "use another --index"
            )


def _describe_cut(settings: Settings) -> str:
    return f"shots, and {settings.scales}" if settings.shots else str(settings.scales)
