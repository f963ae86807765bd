"""Supervised decoding: what a damaged or hostile file does to FFmpeg costs that file, not the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import av

from clipvip.errors import ClipVipError, DecoderKilled, VideoDecodeError
from clipvip.files import open_beneath
from clipvip.jobs.worker import Beat, Worker, WorkerDied, call_twice, usable_cpus

T = TypeVar("T")
logger = logging.getLogger(__name__)

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
        self,
        function: Callable[..., T],
        path: str | os.PathLike[str],
        *args: Any,
        beneath: str | None = None,
        on_beat: Beat | None = None,
    ) -> T:
        """`function(path, *args)` in a process that is free, or will be; `on_beat` as in `Worker.call`.

        beneath: a folder; the function then gets the open file, which no link may lead out of it (`open_beneath`).
        Raises: VideoDecodeError if the process crashed, hung or wanted too much memory, or the function failed in a way
        that nobody expected; ClipVipError and OSError as the function raised them.
        """
        work: Callable[..., T] = partial(function, path)
        if beneath is not None:
            work = partial(_call_beneath, function, path, beneath)
        with self._worker(path) as worker:
            if on_beat is None:
                return call_twice(worker, work, *args, timeout_s=time_limit_s(path))
            return worker.call(work, *args, timeout_s=time_limit_s(path), on_beat=on_beat)

    def stream(
        self,
        function: Callable[..., Iterable[T]],
        path: str | os.PathLike[str],
        *args: Any,
        beneath: str | None = None,
        **options: Any,
    ) -> Generator[T]:
        """What `function(path, *args, **options)` yields in a process that is free, or will be; as `call`."""
        work: Callable[[], Iterable[T]] = partial(function, path, *args, **options)
        if beneath is not None:
            work = partial(_stream_beneath, function, path, beneath, *args, **options)
        with self._worker(path) as worker:
            yield from worker.stream(work, timeout_s=time_limit_s(path))

    @contextmanager
    def _worker(self, path: str | os.PathLike[str]) -> Iterator[Worker]:
        """One that is free; its death, or any error that nobody expected, is the file's fault."""
        worker = self._idle.get()
        try:
            yield worker
        except WorkerDied as error:
            kind = DecoderKilled if error.killed else VideoDecodeError
            way_out = "try again" if error.killed else "re-encode it or leave it out"
            raise kind(f"{os.fspath(path)}: the process that decoded it {error}; {way_out}") from None
        except Exception as error:
            if isinstance(error, ClipVipError | OSError) and not isinstance(error, av.FFmpegError):
                raise
            logger.debug("%s: decoding failed unexpectedly", os.fspath(path), exc_info=error)
            reason = " ".join(str(getattr(error, "strerror", None) or error).split())
            raise VideoDecodeError(
                f"{os.fspath(path)}: cannot be decoded ({type(error).__name__}: {reason}); re-encode it or leave it out"
            ) from error
        finally:
            self._idle.put(worker)

    def __len__(self) -> int:
        """How many files are decoded at once."""
        return len(self._crew)

    def close(self) -> None:
        """End all processes; calls under way fail."""
        for worker in self._crew:
            worker.close()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _call_beneath(function: Callable[..., T], path: str | os.PathLike[str], folder: str, *args: Any) -> T:
    with open_beneath(folder, os.path.relpath(path, folder)) as file:
        return function(file, *args)


def _stream_beneath(
    function: Callable[..., Iterable[T]], path: str | os.PathLike[str], folder: str, *args: Any, **options: Any
) -> Iterator[T]:
    with open_beneath(folder, os.path.relpath(path, folder)) as file:
        yield from function(file, *args, **options)


def time_limit_s(path: str | os.PathLike[str], patience_s: float = PATIENCE_S) -> float:
    """How long reading frames of a file may take before it counts as hanging."""
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError):
        size = 0  # the call itself will tell what is wrong
    return patience_s + size / BYTES_PER_S
