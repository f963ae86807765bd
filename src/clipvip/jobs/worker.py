"""A supervised child process: a crash, a hang or a memory hog in it costs one call, not the caller.

Python cannot catch a segmentation fault or an endless loop inside a C library such as FFmpeg; a parent process can.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

from clipvip.errors import ClipVipError, ClipVipWarning
from clipvip.terminal import one_line

if sys.platform != "win32":
    import resource

T = TypeVar("T")


class Beat(Protocol):
    """A sign of life, and how many more items are done: 0 for an item that takes long."""

    def __call__(self, count: int = 1) -> None: ...


START_S = 120.0
"""A fresh process may take this long, and no part of it counts as a call's time."""
EXIT_S = 0.5
"""A process whose pipe has closed gets this long to end by itself."""
BEAT_S = 0.05
"""Beats are sent at most this often."""


class WorkerDied(ClipVipError):
    """The process crashed, was silent for too long or needed too much memory; the text says which.

    killed: by SIGKILL, and not by us: mostly by the kernel when memory is short.
    """

    def __init__(self, text: str, killed: bool = False):
        super().__init__(text, killed)
        self.text, self.killed = text, killed

    def __str__(self) -> str:
        return self.text


class NotStarted(ClipVipError):
    """No worker process can be started at all: no fault of its work."""


class MachineLost(ClipVipError):
    """The machine of a worker is lost, or has no room for it any more: no fault of its work."""


class Worker:
    """A child process that does one call at a time, and is replaced after it died. A context manager.

    The process is spawned: it imports what it is asked to call, and shares no state with the caller.

    Args:
        memory_bytes: limit of its address space; None: no limit.
        may_spawn: whether it may start processes itself; such a worker must be closed before the program can end.
    """

    def __init__(self, *, memory_bytes: int | None = None, may_spawn: bool = False):
        self._memory_bytes, self._may_spawn = memory_bytes, may_spawn
        self._process: Any = None
        self._pipe: Connection | None = None
        self._closed = False
        self._lock = threading.Lock()  # between a thread that calls and one that closes

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def call(
        self,
        function: Callable[..., T],
        *args: Any,
        timeout_s: float | None,
        on_beat: Beat | None = None,
        on_message: Callable[[Any], None] | None = None,
        retry: bool = False,
    ) -> T:
        """Return `function(*args)`, computed in the child.

        Args:
            function: is imported in the child, or is a `partial` of such a function.
            *args: what can be pickled.
            timeout_s: the child is killed when it was silent (no beat, message or result) for longer; None: never.
            on_beat: the function gets a `Beat` as last argument, which calls this one in the caller's process.
            on_message: the function gets a function as last argument, which sends its argument to this one.
            retry: call again in a fresh process if something else killed the first one.
        Raises: WorkerDied; what the function raised, with the child's traceback as a note.
        """
        mode = "beats" if on_beat else "messages" if on_message else ""
        handler: Callable[[Any], None] = on_beat or on_message or (lambda value: None)
        try:
            return self._call((function, args, mode), timeout_s, handler)
        except WorkerDied as error:
            if not (retry and error.killed) or self._closed:
                raise
            return self._call((function, args, mode), timeout_s, handler)

    def stream(self, function: Callable[..., Iterable[T]], *args: Any, timeout_s: float | None) -> Generator[T]:
        """Yield what `function(*args)` yields in the child, as soon as it does; the child waits for the consumer.

        Args: timeout_s: the child is killed when it was silent for longer, and if the results are not all taken.
        Raises: as `call`, maybe after some results.
        """
        with closing(self._converse((function, args, "items"), timeout_s)) as messages:
            for kind, value in messages:
                if kind == "item":
                    yield value

    def close(self, grace_s: float = 0.0) -> None:
        """Kill the process, if there is one, and start no other: a call that is running fails with WorkerDied.

        Args: grace_s: ask it to end by SIGTERM first, and wait this long.
        """
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            if grace_s:
                process.terminate()
                process.join(grace_s)
            process.kill()
            process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._kill()

    def _call(self, request: tuple[Any, ...], timeout_s: float | None, handler: Callable[[Any], None]) -> Any:
        value: Any = None
        with closing(self._converse(request, timeout_s)) as messages:
            for kind, value in messages:
                if kind != "result":
                    handler(value)
        return value

    def _converse(self, request: tuple[Any, ...], timeout_s: float | None) -> Generator[tuple[str, Any]]:
        """The child's messages about a request, up to ("result", value). Raises: as `call`."""
        ended = False
        try:
            try:
                (self._pipe or self._start()).send(request)
            except OSError:  # it died while it had nothing to do, as the kernel does to some when memory is short
                self._kill()
                self._start().send(request)
            while not ended:
                kind, value = self._receive(timeout_s)
                if kind == "memory":  # after such an error the process is in no known state
                    raise WorkerDied(f"needed more than {self._memory_bytes or 0:,} bytes of memory")
                ended = kind in ("result", "raised")
                if kind == "raised":
                    raise value
                yield kind, value
        finally:
            if not ended:
                self._kill()  # it may still be busy, and would give the next call this one's answer

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        with self._lock:
            if self._closed:
                raise WorkerDied("is closed")
            self._pipe, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._memory_bytes), daemon=not self._may_spawn)
            try:
                process.start()
            except (RuntimeError, OSError) as error:  # in a process that is itself being started; or no memory
                raise NotStarted(f"a worker process cannot be started: {str(error).strip()}") from error
            self._process = process
            theirs.close()  # so that the child's end is the only one, and its death the end of the pipe
        try:
            self._receive(START_S)
        except WorkerDied as error:
            if self._closed or error.killed:
                raise
            raise NotStarted(
                f"a worker process {error} while it started; a script that calls clipvip needs "
                'if __name__ == "__main__": around its calls, because workers import it'
            ) from None
        return self._pipe

    def _receive(self, timeout_s: float | None) -> tuple[str, Any]:
        assert self._pipe is not None
        try:
            if self._pipe.poll(timeout_s):
                return self._pipe.recv()
        except (EOFError, OSError):
            exit_code = self._kill()
            raise WorkerDied(f"crashed ({_describe_exit(exit_code)})", exit_code == -signal.SIGKILL) from None
        self._kill()
        raise WorkerDied(f"was silent for {timeout_s:.0f} s and was killed")

    def _kill(self) -> int:
        """End the process, if there is one, and return its exit code."""
        process, self._process = self._process, None
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()
        if process is None:
            return 0
        process.join(EXIT_S)  # it may be dying already, and its exit code says of what
        process.kill()
        process.join()
        return -signal.SIGKILL if process.exitcode is None else process.exitcode  # None: another thread joined it


def _describe_exit(exit_code: int) -> str:
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"


def _serve(pipe: Connection, memory_bytes: int | None) -> None:
    """The child: reads calls and sends answers until the parent is gone."""
    end_with_parent()
    warnings.showwarning = _show_warning
    if memory_bytes is not None and sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    pipe.send(("ready", None))
    while True:
        try:
            function, args, mode = pipe.recv()
            beat = _Beats(pipe)
            reporters: dict[str, Any] = {"beats": beat, "messages": partial(_send_item, pipe)}
            result = function(*args, *([reporters[mode]] if mode in reporters else []))
            if mode == "items":
                for item in result:
                    _send_item(pipe, item)
                result = None
            answer = ("result", result)
            beat.flush()
        except (EOFError, BrokenPipeError):
            return  # the parent is gone, or has stopped listening
        except MemoryError:
            answer = ("memory", None)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            if not isinstance(error, ClipVipError):
                error.add_note(traceback.format_exc())
            answer = ("raised", error if _can_be_pickled(error) else RuntimeError(f"{type(error).__name__}: {error}"))
        try:
            pipe.send(answer)
        except (TypeError, AttributeError, ValueError) as error:  # not picklable
            pipe.send(("raised", RuntimeError(f"the answer cannot leave the worker process ({error}): {answer[1]!r}")))


def _can_be_pickled(error: Exception) -> bool:
    """Whether the error can be made again from its pickle: some have constructors that want more than `args`."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever those constructors raise
        return False
    return True


def _send_item(pipe: Connection, item: Any) -> None:
    pipe.send(("item", item))


def _show_warning(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
    """As the command line shows its own: one line, without our code."""
    if issubclass(category, ClipVipWarning):
        sys.stderr.write(f"clipvip: {one_line(str(message))}\n")


class _Beats:
    """Collects beats: a message for each of a million quick items would cost more than many of them."""

    def __init__(self, pipe: Connection):
        self._pipe = pipe
        self._count, self._sent = 0, 0.0

    def __call__(self, count: int = 1) -> None:
        self._count += count
        if time.monotonic() - self._sent > BEAT_S:
            self._send()

    def flush(self) -> None:
        """Send what has not been sent."""
        if self._count:
            self._send()

    def _send(self) -> None:
        self._pipe.send(("beat", self._count))
        self._count, self._sent = 0, time.monotonic()


def end_with_parent() -> None:
    """End this worker process when its parent dies, even while it is busy in C; leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def usable_cpus() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
