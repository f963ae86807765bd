"""The index as it is now, while others write to it: each version is opened next to the last one, then replaces it.

A search keeps the version that it began with, so no answer mixes two; and none waits for vectors to be read.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from anyio.to_thread import run_sync

from clipvip.errors import SearchIndexError
from clipvip.search import Library, Query, Status, Term, VideoRecord
from clipvip.serve.problems import not_found

logger = logging.getLogger(__name__)
REFRESH_S, REMOTE_REFRESH_S = 2.0, 10.0
"""How often to look for a newer version. In a folder a look costs a few file states, elsewhere a request per table."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of the index, ready to be searched."""

    library: Library
    videos: dict[str, VideoRecord]
    status: Status

    def video(self, video_id: str) -> VideoRecord:
        """Raises: Problem if there is none."""
        record = self.videos.get(video_id)
        if record is None:
            raise not_found("video", video_id)
        return record

    def of_segment(self, segment_id: str) -> VideoRecord:
        """The video that a segment is of. Raises: Problem if there is none."""
        record = self.videos.get(segment_id.partition("-")[0])
        if record is None:
            raise not_found("segment", segment_id)
        return record

    def vector(self, segment_id: str) -> np.ndarray:
        """Of a segment: float32 [E]. Raises: Problem if there is none."""
        self.of_segment(segment_id)
        try:
            return self.library.store.vector(segment_id)
        except SearchIndexError:
            raise not_found("segment", segment_id) from None


class Live:
    """The current `Snapshot`. open_library: opens the index as it is now."""

    def __init__(self, open_library: Callable[[], Library]):
        self._open_library = open_library
        self._lock = threading.Lock()
        self._complaint = ""
        self._version: tuple[object, ...] | None = None
        self._open()

    def renew(self) -> None:
        """Take a newer version of the index, if there is one. For any thread."""
        with self._lock:
            try:
                if self._version is None or self._watch.version() != self._version:
                    self._version = None  # until it is read: what fails is tried again
                    self._open()
                self._complaint = ""
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the watch or a job's last step
                self._version = None
                if str(error) != self._complaint:  # once, not every two seconds
                    self._complaint = str(error)
                    logger.warning("the index cannot be opened again (%s); its last version still answers", error)

    async def watch(self) -> None:
        """Renew every now and then, until cancelled: others may write to the index, too."""
        while True:
            await asyncio.sleep(self._watch.every_s)
            await run_sync(self.renew)

    def _open(self) -> None:
        """Raises: SearchIndexError if the index is of another model now."""
        library = self._open_library()  # not the one that is searched: its tables may have been made again
        watch = _Watch(library.uri)
        version = watch.version()
        library.refresh()  # to that version, or a newer one
        _ = library.encoder
        axis = np.eye(1, library.settings.embedding_size, dtype=np.float32)[0]
        library.search(Query(terms=(Term(vector=axis),), k=1))  # reads the vectors, so that no user waits for it
        self.current = Snapshot(library, library.store.videos(), library.status())
        self._watch, self._version = watch, version


class _Watch:
    """Looks whether an index has changed, as cheaply as that is possible, and has its own tables for it."""

    def __init__(self, uri: str):
        self._uri = uri
        self._library = Library(uri) if "://" in uri else None
        self.every_s = REFRESH_S if self._library is None else REMOTE_REFRESH_S

    def version(self) -> tuple[object, ...]:
        """Changes with each commit: in a folder the files that list versions, elsewhere one number per table."""
        if self._library is None:
            folders = ((path, path.stat()) for path in sorted(Path(self._uri).glob("*.lance/_versions")))
            return tuple((path.parent.name, state.st_ino, state.st_mtime_ns) for path, state in folders)
        self._library.refresh()
        return self._library.store.table_versions
