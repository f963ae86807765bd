"""The index as it is now, while others write to it: each version is opened beside the last one, then takes its place.

A search keeps the version that it began with, so no answer mixes two; and none waits for vectors to be read.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from anyio.to_thread import run_sync

from clipvip.errors import SearchIndexError
from clipvip.search import Library, Query, Status, Term, VideoRecord
from clipvip.serve.problems import not_found

logger = logging.getLogger(__name__)
REFRESH_S = 2.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of the index, ready to be searched."""

    library: Library
    version: Any
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
    """The current `Snapshot`. open_library: opens the index anew."""

    def __init__(self, open_library: Callable[[], Library]):
        self._open_library = open_library
        self._lock = threading.Lock()
        self._complaint = ""
        self.current = _read(open_library())

    def renew(self) -> None:
        """Take a newer version of the index, if there is one. For any thread."""
        with self._lock:
            try:
                library = self._open_library()  # not the one that is searched: its tables may have been made anew
                if library.store.versions != self.current.version:
                    self.current = _read(library)
                self._complaint = ""
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the watch or a job's last step
                if str(error) != self._complaint:  # once, not every two seconds
                    self._complaint = str(error)
                    logger.warning("the index cannot be read anew (%s); its last version still answers", error)

    async def watch(self) -> None:
        """Renew every now and then, until cancelled: others may write to the index, too."""
        while True:
            await asyncio.sleep(REFRESH_S)
            await run_sync(self.renew)


def _read(library: Library) -> Snapshot:
    """Raises: SearchIndexError if the index is of another model now."""
    _ = library.encoder
    axis = np.eye(1, library.settings.embedding_size, dtype=np.float32)[0]
    library.search(Query(terms=(Term(vector=axis),), k=1))  # reads the vectors, so that no user waits for it
    return Snapshot(library, library.store.versions, library.store.videos(), library.status())
