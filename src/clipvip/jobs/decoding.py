"""Supervised decoding: what a damaged or hostile file does to FFmpeg costs that file, not the run."""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from clipvip.errors import VideoDecodeError
from clipvip.jobs.worker import Beat, Worker, WorkerDied, usable_cpus
from clipvip.video import VideoInfo, probe, read_frames, stream_frames

T = TypeVar("T")

MEMORY_BYTES = 4 << 30
"""Address space of a decoding process: room for a dozen frames of 8K video."""
PATIENCE_S = 60.0
BYTES_PER_S = 2e5
"""A call may be silent for PATIENCE_S, and a second more for each so many bytes of its file: some files must be decoded
from the start, and a long film takes its time."""


class DecodePool:
    """Processes that decode for threads of this one. A context manager."""

    def __init__(self, num_workers: int | None = None):
        self._crew = [Worker(memory_bytes=MEMORY_BYTES) for _ in range(num_workers or usable_cpus())]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._crew:
            self._idle.put(worker)

    def call(
        self, function: Callable[..., T], path: str | os.PathLike[str], *args: Any, on_beat: Beat | None = None
    ) -> T:
        """`function(path, *args)` in a process that is free, or will be; `on_beat` as in `Worker.call`.

        Raises: VideoDecodeError if the process crashed, hung or wanted too much memory; what the function raised.
        """
        worker = self._idle.get()
        try:
            return worker.call(function, path, *args, timeout_s=time_limit_s(path), on_beat=on_beat)
        except WorkerDied as error:
            name = os.fspath(path)
            raise VideoDecodeError(
                f"{name}: the process that decoded it {error}; re-encode it or leave it out"
            ) from None
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End all processes; calls under way fail."""
        for worker in self._crew:
            worker.close()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def time_limit_s(path: str | os.PathLike[str], patience_s: float = PATIENCE_S) -> float:
    """How long reading frames of a file may take before it counts as hanging."""
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError):
        size = 0  # the call itself will tell what is wrong
    return patience_s + size / BYTES_PER_S


def measured(path: str | os.PathLike[str], short_s: float, beat: Beat) -> tuple[VideoInfo, float]:
    """What `probe` tells, and for how many seconds there are pictures.

    Where packets cannot be trusted, a header may not say, or mean a sound track that goes on after the pictures: then
    all is decoded, with a `beat` a frame. Up to `short_s` it is believed.
    """
    info = probe(path)
    if info.duration_s is not None and (info.exact or info.duration_s <= short_s):
        return info, info.duration_s
    if info.duration_s is not None:
        try:
            read_frames(path, [0], time_range=(info.duration_s - min(1.0, short_s), info.duration_s))
        except VideoDecodeError:
            pass  # the full decode below tells a wrong header from a broken file
        else:
            return info, info.duration_s
    last_s = 0.0
    for time_s, _ in stream_frames(path):
        last_s = max(last_s, time_s)
        beat(0)
    return info, last_s + 1 / (info.fps or 25)
