"""A pool of supervised processes, and threads that compute results before they are asked for.

Everything that works in processes goes through `Pool`: bulk decoding, the job runner and the rendering of synthetic
videos. What a damaged or hostile file does to FFmpeg costs that file, not the run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from queue import Empty, Full, Queue
from threading import Condition, Event, Lock
from typing import Any, Generic, Protocol, TypeVar

from clipvip.errors import ClipVipError, DecoderKilled, VideoDecodeError
from clipvip.files import open_beneath
from clipvip.jobs.worker import Beat, MachineLost, Worker, WorkerDied, usable_cpus

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)

POLL_S = 0.1
"""How often a thread that waits for another one checks whether that has ended."""
MEMORY_BYTES = 4 << 30
"""Address space of a decoding process: room for a dozen frames of 8K video."""
PATIENCE_S = 60.0
BYTES_PER_S = 2e5
"""A call may be silent for PATIENCE_S, and a second more for each so many bytes of its file: some files must be decoded
from the start, and a long video takes its time."""


def prefetch(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    ahead: int,
    threads: int | None = None,
    ordered: bool = True,
    on_stop: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Yield `function(item)` of all items, computed by threads up to `ahead` items early.

    Args: threads: how many; None: Python's default. ordered: in the order of the items; otherwise as results are ready.
        on_stop: called if the results are not all taken, before the threads are waited for.
    """
    with ThreadPoolExecutor(threads) as executor:
        pending: list[Future[Result]] = []

        def next_result() -> Result:
            future = pending[0] if ordered else next(iter(wait(pending, return_when=FIRST_COMPLETED).done))
            pending.remove(future)
            return future.result()

        try:
            for item in items:
                pending.append(executor.submit(function, item))
                if len(pending) >= ahead:
                    yield next_result()
            while pending:
                yield next_result()
        except BaseException:
            for future in pending:
                future.cancel()
            on_stop()
            raise


def prefetch_streams(
    function: Callable[[Item], Iterable[Result]],
    items: Iterable[Item],
    *,
    ahead: int,
    threads: int,
    on_stop: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Yield what `function(item)` yields for all items, as results are ready; those of one item stay in order.

    Args: ahead: how many results are computed early. threads: how many items are worked on at a time. on_stop: as for
        `prefetch`.
    """
    ready: Queue[Result] = Queue(ahead)
    waiting, lock, stopped = iter(items), Lock(), Event()

    def work() -> None:
        while not stopped.is_set():
            with lock:
                try:
                    item = next(waiting)
                except StopIteration:
                    return
            for result in function(item):
                put(result)

    def put(result: Result) -> None:
        while not stopped.is_set():
            try:
                return ready.put(result, timeout=POLL_S)
            except Full:
                continue

    with ThreadPoolExecutor(threads) as executor:
        try:
            running = [executor.submit(work) for _ in range(threads)]
            while True:
                done = [future for future in running if future.done()]
                for future in done:
                    future.result()
                over = len(done) == threads  # checked before the queue: nothing can be added to it after that
                try:
                    yield ready.get(block=not over, timeout=POLL_S)
                except Empty:
                    if over:
                        return
        except BaseException:
            stopped.set()
            on_stop()
            raise


class Closeable(Protocol):
    """What a pool asks of its workers."""

    def close(self) -> None:
        """End the process, if there is one, and start no other: a call that is running fails with WorkerDied."""


W = TypeVar("W", bound=Closeable)


class Pool(Generic[W]):
    """Workers shared by the threads of this process. A context manager, which closes them.

    A worker replaces its process when that dies. One that raises MachineLost is not used again.
    """

    def __init__(self, workers: Sequence[W]):
        self._workers = list(workers)
        self._idle = list(workers)
        self._num_left = len(workers)
        self._changed = Condition()

    @contextmanager
    def checkout(self) -> Iterator[W]:
        """A worker for the block, as soon as one is free. Raises: ClipVipError if the machines of all are lost."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or not self._num_left)
            if not self._idle:
                raise ClipVipError("all machines of this job are lost; run the same command again when there are some")
            worker = self._idle.pop()
        is_lost = False
        try:
            yield worker
        except MachineLost:
            is_lost = True
            raise
        finally:
            with self._changed:
                if is_lost:
                    self._num_left -= 1
                else:
                    self._idle.append(worker)
                self._changed.notify_all()

    def map(
        self: Pool[Worker],
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        timeout_s: float | None = None,
        ordered: bool = True,
    ) -> Iterator[Result]:
        """Yield `function(item)` of all items, computed in the processes; if not all are taken, the pool is closed.

        Args: timeout_s: a process that is silent for longer is killed; None: never. ordered: as for `prefetch`.
        Raises: WorkerDied; what the function raised.
        """

        def call(item: Item) -> Result:
            with self.checkout() as worker:
                return worker.call(function, item, timeout_s=timeout_s, retry=True)

        size = len(self)
        return prefetch(call, items, ahead=2 * size, threads=size, ordered=ordered, on_stop=self.close)

    def __len__(self) -> int:
        return len(self._workers)

    def close(self) -> None:
        """End all processes; calls that are running fail with WorkerDied."""
        for worker in self._workers:
            worker.close()

    def __enter__(self: P) -> P:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


P = TypeVar("P", bound=Pool[Any])


class DecodePool(Pool[Worker]):
    """Processes that read media files for threads of this one; their deaths are reported as faults of the file."""

    def __init__(self, num_workers: int | None = None):
        super().__init__([Worker(memory_bytes=MEMORY_BYTES) for _ in range(num_workers or usable_cpus())])

    def call(
        self,
        function: Callable[..., T],
        path: str | os.PathLike[str],
        *args: Any,
        beneath: str | None = None,
        on_beat: Beat | None = None,
    ) -> T:
        """Return `function(path, *args)`, computed in a process as soon as one is free.

        Args: beneath: a folder; the function then gets the open file, which no link may lead out of it
            (`open_beneath`). on_beat: as for `Worker.call`.
        Raises: VideoDecodeError if the process crashed, hung or needed too much memory, or the function failed in a way
            that nobody expected; ClipVipError and OSError as the function raised them.
        """
        work: Callable[..., T] = partial(function, path)
        if beneath is not None:
            work = partial(_call_beneath, function, path, beneath)
        with self._worker_for(path) as worker:
            return worker.call(work, *args, timeout_s=time_limit_s(path), on_beat=on_beat, retry=on_beat is None)

    def stream(
        self,
        function: Callable[..., Iterable[T]],
        path: str | os.PathLike[str],
        *args: Any,
        beneath: str | None = None,
        **options: Any,
    ) -> Generator[T]:
        """Yield what `function(path, *args, **options)` yields in a process, as soon as one is free; as `call`."""
        work: Callable[[], Iterable[T]] = partial(function, path, *args, **options)
        if beneath is not None:
            work = partial(_stream_beneath, function, path, beneath, *args, **options)
        with self._worker_for(path) as worker:
            yield from worker.stream(work, timeout_s=time_limit_s(path))

    @contextmanager
    def _worker_for(self, path: str | os.PathLike[str]) -> Iterator[Worker]:
        """Its death, and any error that nobody expected, is the file's fault."""
        try:
            with self.checkout() as worker:
                yield worker
        except WorkerDied as error:
            kind = DecoderKilled if error.killed else VideoDecodeError
            way_out = "try again" if error.killed else "re-encode it or leave it out"
            raise kind(f"{os.fspath(path)}: the process that decoded it {error}; {way_out}") from None
        except Exception as error:
            from av import FFmpegError  # loaded already if this is one

            if isinstance(error, ClipVipError | OSError) and not isinstance(error, FFmpegError):
                raise
            logger.debug("%s: decoding failed unexpectedly", os.fspath(path), exc_info=error)
            reason = " ".join(str(getattr(error, "strerror", None) or error).split())
            raise VideoDecodeError(
                f"{os.fspath(path)}: cannot be decoded ({type(error).__name__}: {reason}); re-encode it or leave it out"
            ) from error


def _call_beneath(function: Callable[..., T], path: str | os.PathLike[str], folder: str, *args: Any) -> T:
    with open_beneath(folder, os.path.relpath(path, folder)) as file:
        return function(file, *args)


def _stream_beneath(
    function: Callable[..., Iterable[T]], path: str | os.PathLike[str], folder: str, *args: Any, **options: Any
) -> Iterator[T]:
    with open_beneath(folder, os.path.relpath(path, folder)) as file:
        yield from function(file, *args, **options)


def time_limit_s(path: str | os.PathLike[str], patience_s: float = PATIENCE_S) -> float:
    """How long reading frames of a file may be silent before it counts as hanging."""
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError):
        size = 0  # the call itself reports what is wrong
    return patience_s + size / BYTES_PER_S
