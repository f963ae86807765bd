"""Video files to encoded segments: decode, cut and encode, in one pass a file. Knows nothing of how they are stored.

Shapes: n segments of a video, T frames, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from clipvip.encode import Encoder
from clipvip.errors import VideoDecodeError
from clipvip.files import file_digest
from clipvip.jobs import DecodePool, MachineLost, NotStarted, prefetch_streams
from clipvip.search.index.scan import EncodedVideo, KnownContent, Skipped, VideoFile
from clipvip.search.index.thumbnails import make_thumbnail
from clipvip.video import Scales, VideoInfo, stream_segments

BATCH_SIZE = 16

Outcome: TypeAlias = EncodedVideo | KnownContent | Skipped


@dataclass(slots=True)
class _Job:
    """A file on its way. The segments that are read grow, then their vectors; `whole` once all are read."""

    file: VideoFile
    content_hash: str
    info: VideoInfo
    segments: list[tuple[float, float]] = field(default_factory=list)
    thumbnails: list[bytes | None] = field(default_factory=list)
    vectors: dict[int, np.ndarray] = field(default_factory=dict)
    whole: bool = False

    @property
    def complete(self) -> bool:
        """Whether all segments are read and encoded."""
        return self.whole and len(self.vectors) == len(self.segments)

    def encoded(self) -> EncodedVideo:
        """The complete video."""
        info = self.info
        assert info.duration_s is not None  # `stream_segments` always knows it
        vectors = np.stack([self.vectors[i] for i in range(len(self.segments))])
        return EncodedVideo(
            self.file, self.content_hash, info.duration_s, info.width, info.height, self.segments, vectors,
            self.thumbnails, damage=info.damage,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Read:
    """A segment of a job to be encoded, [T, 3, S, S]; or, without pixels, the news that all are read.

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
    """Reads files, by threads of this process and processes of the pool."""

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
        """Its segments and their end; or else one word on it."""
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
