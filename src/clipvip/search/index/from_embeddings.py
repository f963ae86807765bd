"""Embedding sets as videos with encoded segments: each clip of a set is one."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.data import LIBRARY_EXTENSIONS
from clipvip.embedding_sets import EmbeddingSet
from clipvip.embedding_sets.layout import MEDIA
from clipvip.errors import VideoDecodeError
from clipvip.files import file_digest
from clipvip.search.index.scan import EncodedVideo, Found, Skipped, VideoFile, find_videos
from clipvip.video import probe


class StoredVideos:
    """The videos of an embedding set, in its order. Images are no videos, and are left out.

    found: those that are there, and the others. roots: as `find_videos` takes them.
    """

    def __init__(self, embeddings: EmbeddingSet, roots: Collection[str] = ()):
        rows, self._vectors = embeddings.rows(MEDIA)
        self._reading_rules = min(facts.reading_rules for facts in embeddings.facts)
        self._rows_of: dict[Path, list[tuple[int, dict[str, Any]]]] = {}
        for number, row in enumerate(rows.select(["path", "start_s", "end_s"]).to_pylist()):
            path = Path(os.path.abspath(row["path"]))  # as `find_videos` writes it
            if path.suffix.lower() in LIBRARY_EXTENSIONS:
                self._rows_of.setdefault(path, []).append((number, row))
        there = [path for path in self._rows_of if path.is_file()]
        self.found = find_videos(there, roots) if there else Found()
        gone = self._rows_of.keys() - set(there)
        self.found.skipped += [Skipped(path, "no such file") for path in sorted(gone)]

    def encoded(self, files: list[VideoFile]) -> Iterator[EncodedVideo | Skipped]:
        """The segments of these files, without thumbnails. Nothing is decoded, but size and duration are looked up."""
        for file in files:
            try:
                yield self._encoded(file)
            except Exception as error:  # noqa: BLE001 - whatever one file brings about, the others are indexed
                yield Skipped.because(file, error)

    def _encoded(self, file: VideoFile) -> EncodedVideo:
        info, digest = probe(file.absolute), file_digest(file.absolute)
        latest_s = max(max(row["start_s"] or 0.0, row["end_s"] or 0.0) for _, row in self._rows_of[file.absolute])
        if not info.exact and latest_s > (info.duration_s or 0.0):
            info = probe(file.absolute, scan=True)  # the header may speak of one of several joined parts
        if info.duration_s is None:
            raise VideoDecodeError(f"{file.absolute}: its duration is not known; index its folder instead")
        row_of: dict[tuple[float, float], int] = {}  # several clips may be the same part
        for number, row in self._rows_of[file.absolute]:
            start_s = round(row["start_s"] or 0.0, 3)
            end_s = round(info.duration_s if row["end_s"] is None else min(row["end_s"], info.duration_s), 3)
            if start_s < end_s:
                row_of.setdefault((start_s, end_s), number)
        if not row_of:
            raise VideoDecodeError(f"{file.absolute}: its clips lie beyond the end ({info.duration_s:.3f} s)")
        segments, rows = list(row_of), np.array(list(row_of.values()))
        return EncodedVideo(
            file, digest, info.duration_s, info.width, info.height, segments, self._vectors[rows],
            [None] * len(segments), given=True, reading_rules=self._reading_rules,
        )  # fmt: skip
