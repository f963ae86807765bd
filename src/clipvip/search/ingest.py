"""Video files to encoded segments: cut, decode and encode. Knows nothing of how they are stored.

Shapes: n segments of a video, T frames, E embedding size.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipvip.encode import Encoder
from clipvip.errors import ClipVipError
from clipvip.files import file_digest
from clipvip.jobs.ahead import run_ahead
from clipvip.jobs.decoding import DecodePool, measured
from clipvip.search.scan import EncodedVideo, Skipped, VideoFile
from clipvip.search.segments import cut_segments
from clipvip.video import read_frames

BATCH_SIZE = 16
THUMBNAIL_SIZE = (160, 320)
"""Widest and highest; only very tall videos reach the second."""


@dataclass(slots=True)
class _Job:
    """A file on its way: the encoded part, and how many segments are missing."""

    video: EncodedVideo
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
            digest = pool.call(file_digest, file.absolute)
        except ClipVipError as error:
            return _skipped(file, error)
        n = len(segments)
        vectors = np.empty((n, encoder.embedding_size), np.float32)
        video = EncodedVideo(file, digest, duration_s, info.width, info.height, segments, vectors, [None] * n)
        return _Job(video, n)

    def decode(task: tuple[_Job, int]) -> tuple[_Job, int, Tensor | Skipped]:
        job, i = task
        if job.failure is not None:
            return job, i, job.failure
        video = job.video
        path = video.file.absolute
        try:
            frames = pool.call(partial(read, time_range=video.segments[i] if len(video.segments) > 1 else None), path)
            video.thumbnails[i] = _thumbnail(frames[len(frames) // 2], video.width, video.height)
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
    return Skipped(file.absolute, str(error).removeprefix(f"{file.absolute}: "), file)
