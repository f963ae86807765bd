"""Folders of video files to encoded segments: find, cut, decode and encode. Knows nothing of how they are stored.

Shapes: n segments of a video, T frames, E embedding size.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipvip.data.media import VIDEO_EXTENSIONS
from clipvip.encode import Encoder
from clipvip.errors import ClipVipError, UsageError
from clipvip.jobs.ahead import run_ahead
from clipvip.jobs.decoding import DecodePool, measured
from clipvip.search.segments import cut_segments
from clipvip.video import read_frames

BATCH_SIZE = 16
THUMBNAIL_SIZE = (160, 320)
"""Widest and highest; only very tall videos reach the second."""


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A file below the folder that was asked for, and what shows whether it has changed since.

    root is absolute, path relative to it, both with forward slashes.
    """

    root: str
    path: str
    size_bytes: int
    mtime_ns: int

    @property
    def absolute(self) -> Path:
        """Where the file is."""
        return Path(self.root, self.path)


class Skipped(NamedTuple):
    """A file or folder that could not be read, and why."""

    video: Path
    reason: str


@dataclass(frozen=True, slots=True)
class EncodedVideo:
    """A file with its segments (start_s, end_s), their vectors float32 [n, E] and thumbnails (JPEG, or None)."""

    file: VideoFile
    duration_s: float
    segments: list[tuple[float, float]]
    vectors: np.ndarray
    thumbnails: list[bytes | None]


def find_videos(dirs: Iterable[str | os.PathLike[str]]) -> tuple[list[VideoFile], list[Skipped]]:
    """The video files, by extension, below each folder, sorted; hidden ones are left out. A file stands for itself.

    Raises: UsageError if one of `dirs` does not exist; ClipVipError if there is no video file at all.
    """
    tops = [os.path.abspath(top) for top in dirs]
    found: dict[Path, VideoFile] = {}
    skipped: list[Skipped] = []

    def cannot_list(error: OSError) -> None:
        skipped.append(Skipped(Path(error.filename), error.strerror or "unreadable"))

    for top in tops:
        if os.path.isfile(top):
            root, paths = Path(top).parent, [Path(top)]
        elif os.path.isdir(top):
            root, paths = Path(top), []
            for folder, folders, names in os.walk(top, onerror=cannot_list):
                folders[:] = [name for name in folders if not name.startswith(".")]
                paths += [Path(folder, name) for name in names if not name.startswith(".")]
            paths = sorted(path for path in paths if path.suffix.lower() in VIDEO_EXTENSIONS)
        else:
            raise UsageError(f"{top}: no such file or folder")
        for path in paths:
            try:
                str(path).encode()
                status = path.stat()
            except UnicodeEncodeError:
                skipped.append(Skipped(path, "its name is not valid UTF-8; rename it"))
            except OSError as error:
                skipped.append(Skipped(path, error.strerror or "unreadable"))
            else:
                file = VideoFile(root.as_posix(), path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns)
                found.setdefault(path, file)
    if not found and not skipped:
        raise ClipVipError(f"{', '.join(tops)}: no video files there ({' '.join(VIDEO_EXTENSIONS)})")
    return list(found.values()), skipped


@dataclass(slots=True)
class _Job:
    """A file on its way: the encoded part, its width and height, and how many segments are missing."""

    video: EncodedVideo
    size: tuple[int, int]
    num_missing: int
    failure: Skipped | None = None


def encode_files(
    files: Iterable[VideoFile], encoder: Encoder, window_s: float, stride_s: float
) -> Iterator[EncodedVideo | Skipped]:
    """Every file, encoded or skipped, as soon as that is known (not quite in the order given).

    Supervised processes decode ahead of the model. A file is skipped as a whole if one of its segments cannot be.
    """
    with DecodePool() as pool:
        yield from _encode_files(files, encoder, pool, window_s, stride_s)


def _encode_files(
    files: Iterable[VideoFile], encoder: Encoder, pool: DecodePool, window_s: float, stride_s: float
) -> Iterator[EncodedVideo | Skipped]:
    processor = encoder.processor
    read = partial(read_frames, num_frames=processor.num_frames, size=processor.decoder_size)

    def plan(file: VideoFile) -> _Job | Skipped:
        try:
            info, duration_s = pool.call(measured, file.absolute, window_s, on_beat=_nothing)
            segments = cut_segments(duration_s, window_s, stride_s)
        except ClipVipError as error:
            return _skipped(file, error)
        n = len(segments)
        vectors = np.empty((n, encoder.embedding_size), np.float32)
        return _Job(EncodedVideo(file, duration_s, segments, vectors, [b""] * n), (info.width, info.height), n)

    def decode(task: tuple[_Job, int]) -> tuple[_Job, int, Tensor | Skipped]:
        job, i = task
        if job.failure is not None:
            return job, i, job.failure
        video = job.video
        path = video.file.absolute
        try:
            frames = pool.call(partial(read, time_range=video.segments[i] if len(video.segments) > 1 else None), path)
            video.thumbnails[i] = _thumbnail(frames[len(frames) // 2], *job.size)
            return job, i, processor.frames_to_pixels(frames)
        except ClipVipError as error:
            return job, i, _skipped(video.file, error)

    done: list[EncodedVideo | Skipped] = []

    def segments_to_decode() -> Iterator[tuple[_Job, int]]:
        for job in run_ahead(plan, files, ahead=BATCH_SIZE, give_up=pool.close):
            if isinstance(job, Skipped):
                done.append(job)
            else:
                yield from ((job, i) for i in range(job.num_missing))

    waiting: dict[int, list[tuple[_Job, int, Tensor]]] = {}  # by T: single-frame files cannot share a batch with videos
    for job, i, pixels in run_ahead(decode, segments_to_decode(), ahead=2 * BATCH_SIZE, give_up=pool.close):
        if isinstance(pixels, Tensor):
            batch = waiting.setdefault(len(pixels), [])
            batch.append((job, i, pixels))
            if len(batch) == BATCH_SIZE:
                done += _encode_batch(batch, encoder)
                batch.clear()
        elif job.failure is None:
            job.failure = pixels
            done.append(pixels)
        yield from done
        done.clear()
    for batch in waiting.values():
        if batch:
            done += _encode_batch(batch, encoder)
    yield from done


def _encode_batch(batch: list[tuple[_Job, int, Tensor]], encoder: Encoder) -> list[EncodedVideo]:
    """Fill in the vectors of these segments; the videos that are complete now."""
    vectors = encoder.encode_pixels(torch.stack([pixels for _, _, pixels in batch]))
    complete = []
    for (job, i, _), vector in zip(batch, vectors, strict=True):
        job.video.vectors[i] = vector
        job.num_missing -= 1
        if job.num_missing == 0:
            complete.append(job.video)
    return complete


def _nothing(count: int = 1) -> None:
    """What to do at a sign of life: it has already held off the time limit."""


def _thumbnail(frame: np.ndarray, width: int, height: int) -> bytes:
    """A small JPEG of uint8 [H, W, 3] in the video's own shape (the processor may have had it squashed)."""
    scale = min(THUMBNAIL_SIZE[0] / width, THUMBNAIL_SIZE[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    jpeg = io.BytesIO()
    Image.fromarray(frame).resize(size).save(jpeg, "JPEG", quality=80)
    return jpeg.getvalue()


def _skipped(file: VideoFile, error: ClipVipError) -> Skipped:
    return Skipped(file.absolute, str(error).removeprefix(f"{file.absolute}: "))
