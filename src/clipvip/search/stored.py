"""Embedding sets as videos with encoded segments: each clip of a set is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.data.media import VIDEO_EXTENSIONS
from clipvip.embedding_sets import EmbeddingSet
from clipvip.embedding_sets.layout import MEDIA
from clipvip.errors import VideoDecodeError
from clipvip.search.ingest import EncodedVideo, Skipped, VideoFile
from clipvip.video import probe


class StoredVideos:
    """The videos of an embedding set, in its order. Images are no videos, and are left out."""

    def __init__(self, embeddings: EmbeddingSet):
        rows, self._vectors = embeddings.rows(MEDIA)
        self._rows_of: dict[Path, list[tuple[int, dict[str, Any]]]] = {}
        for number, row in enumerate(rows.select(["path", "start_s", "end_s"]).to_pylist()):
            path = Path(row["path"]).absolute()
            if path.suffix.lower() in VIDEO_EXTENSIONS:
                self._rows_of.setdefault(path, []).append((number, row))

    def files(self) -> tuple[list[VideoFile], list[Skipped]]:
        """Those that are there, and the others."""
        files, skipped = [], []
        for path in self._rows_of:
            try:
                status = path.stat()
            except OSError as error:
                skipped.append(Skipped(path, error.strerror or "unreadable"))
            else:
                files.append(VideoFile(path.parent.as_posix(), path.name, status.st_size, status.st_mtime_ns))
        return files, skipped

    def encoded(self, files: list[VideoFile]) -> Iterator[EncodedVideo | Skipped]:
        """The segments of these files, without thumbnails. Nothing is decoded, but the duration is looked up."""
        for file in files:
            try:
                duration_s = probe(file.absolute).duration_s
            except VideoDecodeError as error:
                yield Skipped(file.absolute, str(error))
                continue
            if duration_s is None:
                yield Skipped(file.absolute, "nobody knows how long it is; index its folder instead")
                continue
            rows = self._rows_of[file.absolute]
            segments = [(row["start_s"] or 0.0, min(row["end_s"] or duration_s, duration_s)) for _, row in rows]
            vectors = self._vectors[np.array([number for number, _ in rows])]
            yield EncodedVideo(file, duration_s, segments, vectors, [None] * len(rows))
