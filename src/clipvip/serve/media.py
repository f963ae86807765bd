"""Files of the index for browsers: the file itself, a copy they can play, film strips. Decoding happens elsewhere."""

from __future__ import annotations

import errno
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import anyio
from anyio.to_thread import run_sync

from clipvip.errors import DecoderKilled, VideoDecodeError
from clipvip.files import open_beneath
from clipvip.jobs import DecodePool, usable_cpus
from clipvip.search import is_gone
from clipvip.serve.config import ServeConfig
from clipvip.serve.decoding import browser_type, film_strip, still, transcode
from clipvip.serve.play_cache import PlayCache
from clipvip.serve.problems import Problem, busy
from clipvip.video import Source

logger = logging.getLogger(__name__)
T = TypeVar("T")
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
STRIP_BYTES = 64 << 20
NUM_TYPES = 100_000
SLOW_THREADS = 4
LONG_S = 600.0
"""Videos that are longer than this are copied one after another, beside the others."""


class ServedFile(NamedTuple):
    """A file of the library that may be served. It is opened beneath its root only, which checks it again."""

    root: str
    relative: str
    status: os.stat_result

    @property
    def path(self) -> Path:
        """What it is called; by this name it is not opened."""
        return Path(self.root, self.relative)

    @property
    def state(self) -> tuple[object, ...]:
        """Changes when the file does."""
        status = self.status
        return self.root, self.relative, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def open(self) -> BinaryIO:
        """The file, as `clipvip.files.open_beneath`. Raises: Problem if it is not there or cannot be read."""
        try:
            return open_beneath(self.root, self.relative)
        except OSError as error:
            raise problem_of(error, self.path.name) from None


def served_file(root: str, path: str) -> ServedFile:
    """An indexed file. Raises: Problem if it is not there any more, or not below its root once links are followed."""
    try:
        with open_beneath(root, path) as file:
            return ServedFile(root, path, os.fstat(file.fileno()))
    except OSError as error:
        raise problem_of(error, path) from None


def problem_of(error: OSError, name: str) -> Problem:
    """What to answer where a file cannot be opened: it is gone or unreadable, or the server is short of something."""
    if isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno == errno.ELOOP:
        return Problem(404, "gone", f"{name}: no file below its folder; index it again")
    if error.errno in SHORTAGES:
        return busy(f"the server has too much open at once ({os.strerror(error.errno or 0).lower()}); try again")
    return Problem(422, "undecodable", f"{name}: cannot be read ({(error.strerror or str(error)).lower()})")


def leads_out(root: str, path: str) -> bool:
    """Whether a name below a folder is, or goes through, a link to somewhere else."""
    return not Path(os.path.realpath(Path(root, path))).is_relative_to(os.path.realpath(root))


class Media:
    """Processes that decode for the server, and what they made. A context manager; its methods are the event loop's."""

    def __init__(self, config: ServeConfig):
        self._config = config
        self._copies = PlayCache(config.cache / "copies", config.cache_bytes)
        self._strips = _Pictures(STRIP_BYTES)
        self._types: OrderedDict[tuple[object, ...], str | None] = OrderedDict()
        num_workers = max(1, usable_cpus() // 2)  # the model and the search want the others
        self._quick, self._quick_threads = DecodePool(num_workers), anyio.CapacityLimiter(num_workers)
        self._short, self._long = _Lane(), _Lane()

    async def type_of(self, file: ServedFile) -> str | None:
        """The media type under which browsers play this file; None: they need a copy."""
        if file.state in self._types:
            return self._types[file.state]
        found = await self._run(
            self._quick_threads, file, lambda: self._quick.call(browser_type, file.path, beneath=file.root)
        )
        self._types[file.state] = found
        if len(self._types) > NUM_TYPES:
            self._types.popitem(last=False)
        return found

    async def copy_of(self, file: ServedFile, duration_s: float) -> Path:
        """A copy that browsers play, made now if there is none. Short videos do not wait for long ones."""
        with _faults_of(file, writing=True):
            copy = await run_sync(self._copies.find, file.state)
        if copy is None:
            lane = self._long if duration_s > LONG_S else self._short
            make = partial(self._make_copy, lane.pool, file)
            copy = await self._run(
                lane.threads, file, lambda: self._copies.find_or_make(file.state, make), writing=True
            )
        return copy

    async def strip(self, file: ServedFile, time_range: tuple[float, float]) -> bytes:
        """The film strip of a part of a video: JPEG."""
        return await self._picture(film_strip, file, time_range)

    async def still(self, file: ServedFile, time_range: tuple[float, float]) -> bytes:
        """The middle frame of a part of a video: JPEG."""
        return await self._picture(still, file, time_range)

    def close(self) -> None:
        """End the processes; calls under way fail."""
        for pool in (self._quick, self._short.pool, self._long.pool):
            pool.close()

    def __enter__(self) -> Media:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _run(
        self, threads: anyio.CapacityLimiter, file: ServedFile, work: Callable[[], T], *, writing: bool = False
    ) -> T:
        """`work()` when its turn has come. Raises: Problem if too many wait, and as `_faults_of`."""
        if threads.statistics().tasks_waiting >= self._config.max_waiting:
            raise busy("too many requests wait for decoding; try again")
        with _faults_of(file, writing):
            return await run_sync(work, limiter=threads)

    async def _picture(
        self, draw: Callable[[Source, tuple[float, float]], bytes], file: ServedFile, time_range: tuple[float, float]
    ) -> bytes:
        key = draw.__name__, *file.state, *time_range
        known = self._strips.get(key)
        if known is None:
            work = lambda: self._quick.call(draw, file.path, time_range, beneath=file.root)  # noqa: E731
            known = await self._run(self._quick_threads, file, work)
            self._strips.put(key, known)
        return known

    def _make_copy(self, pool: DecodePool, file: ServedFile, target: Path) -> None:
        def grown(count: int = 1) -> None:
            self._copies.make_room(target)

        pool.call(transcode, file.path, str(target), self._config.cache_bytes, beneath=file.root, on_beat=grown)


class _Lane:
    """A process that makes copies, one after another, and the threads of those who wait for one."""

    def __init__(self) -> None:
        self.pool, self.threads = DecodePool(1), anyio.CapacityLimiter(SLOW_THREADS)


class _Pictures:
    """Small files in memory; the oldest are forgotten."""

    def __init__(self, max_bytes: int):
        self._max_bytes, self._held = max_bytes, 0
        self._files: OrderedDict[object, bytes] = OrderedDict()

    def get(self, key: object) -> bytes | None:
        return self._files.get(key)

    def put(self, key: object, content: bytes) -> None:
        self._held += len(content) - len(self._files.pop(key, b""))
        self._files[key] = content
        while self._held > self._max_bytes:
            self._held -= len(self._files.popitem(last=False)[1])


@contextmanager
def _faults_of(file: ServedFile, writing: bool = False) -> Iterator[None]:
    """Raises: Problem for what goes wrong with a file: it is gone or damaged. writing: or its copy cannot be kept."""
    try:
        yield
    except (VideoDecodeError, OSError) as error:
        if isinstance(error, FileNotFoundError) or is_gone(file.path):
            raise Problem(404, "gone", f"{file.path.name}: no longer there; index its folder again") from None
        if isinstance(error, DecoderKilled):
            raise busy(
                f"{file.path.name}: the process that decoded it was killed, perhaps for want of memory"
            ) from None
        if isinstance(error, VideoDecodeError):
            raise Problem(422, "undecodable", str(error).replace(str(file.path), file.path.name)) from None
        if not writing or error.errno in SHORTAGES:
            raise problem_of(error, file.path.name) from None
        reason = (error.strerror or str(error)).lower()
        logger.warning("%s: no copy for browsers could be made", file.path, exc_info=error)
        message = f"{file.path.name}: no room for a copy that browsers play ({reason}); serve with another --cache"
        raise Problem(507, "no_copy", message) from None
