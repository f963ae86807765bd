"""Video files to encoded segments: decode, cut and encode, in one pass per file; or those of an embedding set.

Knows nothing of how they are stored. Shapes: n segments of a video, T frames, E embedding size.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipvip.data import LIBRARY_EXTENSIONS
from clipvip.embedding_sets import EmbeddingSet
from clipvip.embedding_sets.layout import MEDIA
from clipvip.encode import Encoder
from clipvip.errors import VideoDecodeError
from clipvip.files import file_digest
from clipvip.jobs import DecodePool, MachineLost, NotStarted, prefetch_streams
from clipvip.search.index.records import EncodedVideo, KnownContent, Outcome, Skipped, VideoFile
from clipvip.search.index.scan import Found, find_videos
from clipvip.video import Scales, VideoInfo, probe, stream_segments

BATCH_SIZE = 16
THUMBNAIL_SIZE = (160, 320)
"""Widest and highest; only very tall videos reach the second."""


@dataclass(slots=True)
class _Job:
    """A file in work: the segments that are read so far, their vectors; whole: all are read."""

    file: VideoFile
    content_hash: str
    info: VideoInfo
    segments: list[tuple[float, float]] = field(default_factory=list)
    thumbnails: list[bytes | None] = field(default_factory=list)
    vectors: dict[int, np.ndarray] = field(default_factory=dict)
    whole: bool = False

    @property
    def complete(self) -> bool:
        return self.whole and len(self.vectors) == len(self.segments)

    def encoded(self) -> EncodedVideo:
        info = self.info
        assert info.duration_s is not None  # `stream_segments` always knows it
        vectors = np.stack([self.vectors[i] for i in range(len(self.segments))])
        return EncodedVideo(
            self.file, self.content_hash, info.duration_s, info.width, info.height, self.segments, vectors,
            self.thumbnails, damage=info.damage,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Read:
    """A segment of a job to be encoded, [T, 3, S, S]; or, without pixels, the end of the file.

    new_s: how much of the video is in this segment and in none before it.
    """

    job: _Job
    number: int = 0
    pixels: Tensor | None = None
    new_s: float = 0.0


def encode_files(
    files: Iterable[VideoFile],
    encoder: Encoder,
    scales: Scales,
    *,
    shots: bool = False,
    confined: bool = False,
    known: Collection[str] | None = None,
    on_hours: Callable[[float], None] = lambda hours: None,
) -> Iterator[Outcome]:
    """Every file, encoded, known by its content or skipped, as soon as that is decided (in no order).

    Supervised processes decode ahead of the model. A file is skipped as a whole if one of its segments cannot be read,
    or if it is written to meanwhile. confined: a file that a link leads out of its folder is skipped. known: content
    hashes that need no encoding; and of several files with the same content only one is encoded (None: all).
    on_hours: called with how many hours more of video are encoded.
    """
    waiting: dict[int, list[_Read]] = {}  # by T: single-frame files cannot share a batch with videos

    def encode(batch: list[_Read]) -> Iterator[EncodedVideo]:
        """The videos that are complete with it."""
        vectors = encoder.encode_pixels(torch.stack([read.pixels for read in batch if read.pixels is not None]))
        for read, vector in zip(batch, vectors, strict=True):
            read.job.vectors[read.number] = vector
        on_hours(sum(read.new_s for read in batch) / 3600)
        jobs = {id(read.job): read.job for read in batch}
        batch.clear()
        yield from (job.encoded() for job in jobs.values() if job.complete)

    with DecodePool() as pool:
        reader = _Reader(pool, encoder, scales, shots, confined, known)
        for found in prefetch_streams(reader.read, files, ahead=2 * BATCH_SIZE, threads=len(pool), on_stop=pool.close):
            if not isinstance(found, _Read):
                yield found
            elif found.pixels is None:
                found.job.whole = True
                if found.job.complete:
                    yield found.job.encoded()
            else:
                batch = waiting.setdefault(len(found.pixels), [])
                batch.append(found)
                if len(batch) == BATCH_SIZE:
                    yield from encode(batch)
        for batch in waiting.values():
            if batch:
                yield from encode(batch)


class _Reader:
    def __init__(
        self,
        pool: DecodePool,
        encoder: Encoder,
        scales: Scales,
        shots: bool,
        confined: bool,
        known: Collection[str] | None,
    ):
        self._pool, self._processor, self._scales, self._shots = pool, encoder.processor, scales, shots
        self._confined = confined
        self._known, self._claimed, self._lock = known, dict[str, str](), Lock()

    def read(self, file: VideoFile) -> Iterator[_Read | KnownContent | Skipped]:
        """Its segments and their end; or else why it has none."""
        for _ in range(2):
            try:
                file = file.again()
                digest = self._pool.call(file_digest, file.absolute, beneath=self._folder(file))
                end: _Read | KnownContent | Skipped = KnownContent(file, digest)
                if not self._is_known(digest, file):
                    end = _Read((yield from self._segments(file, digest)))
                    if not end.job.segments:
                        raise VideoDecodeError(
                            f"{file.absolute}: no frame could be decoded; re-encode it or leave it out"
                        )
            except (NotStarted, MachineLost):
                raise
            except Exception as error:  # noqa: BLE001 - whatever one file brings about, the others are indexed
                end = Skipped.because(file, error)
            try:
                settled = file.again() == file
            except OSError as error:
                settled, end = True, Skipped.because(file, error)
            if settled:
                yield end
                return
        yield Skipped(file.absolute, "is written to while it is read; index again when it is finished", file)

    def _folder(self, file: VideoFile) -> str | None:
        return file.root if self._confined else None

    def _is_known(self, digest: str, file: VideoFile) -> bool:
        if self._known is None:
            return False
        with self._lock:
            return digest in self._known or self._claimed.setdefault(digest, file.video_id) != file.video_id

    def _segments(self, file: VideoFile, digest: str) -> Generator[_Read, None, _Job]:
        processor = self._processor
        found = self._pool.stream(
            stream_segments, file.absolute, self._scales, shots=self._shots, num_frames=processor.num_frames,
            size=processor.decoder_size, beneath=self._folder(file),
        )  # fmt: skip
        job, seen_s = None, 0.0
        with closing(found):
            for part in found:
                if isinstance(part, VideoInfo):
                    job = job or _Job(file, digest, part)
                    job.info = part  # the last one knows whether the file is damaged
                    continue
                assert job is not None  # what there is to know comes first
                job.segments.append((part.start_s, part.end_s))
                job.thumbnails.append(
                    make_thumbnail(part.frames[len(part.frames) // 2], job.info.width, job.info.height)
                )
                new_s = max(0.0, part.end_s - max(seen_s, part.start_s))
                seen_s = max(seen_s, part.end_s)
                yield _Read(job, len(job.segments) - 1, processor.frames_to_pixels(part.frames), new_s)
        assert job is not None
        return job


def make_thumbnail(frame: np.ndarray, width: int, height: int) -> bytes:
    """A JPEG of a frame, uint8 [H, W, 3], in the video's own shape (the processor may have squashed it)."""
    scale = min(THUMBNAIL_SIZE[0] / width, THUMBNAIL_SIZE[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    jpeg = io.BytesIO()
    Image.fromarray(frame).resize(size).save(jpeg, "JPEG", quality=80)
    return jpeg.getvalue()


class EmbeddingSetVideos:
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
