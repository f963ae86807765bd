"""A supervised child process: a crash, a hang or a memory hog in it costs one call, not the caller.

Python cannot catch a segmentation fault or an endless loop inside a C library such as FFmpeg; a parent process can.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

from clipvip.errors import ClipVipError, ClipVipWarning
from clipvip.terminal import one_line

if sys.platform != "win32":
    import resource

T = TypeVar("T")


class Beat(Protocol):
    """A sign of life, and how many items more are done: 0 for those that only take long."""

    def __call__(self, count: int = 1) -> None: ...


START_S = 120.0
"""A fresh process may take this long, and no part of it counts as a call's time."""
GOING_S = 0.5
"""What a process whose pipe has closed may take to leave by itself."""


BEAT_S = 0.05
"""Signs of life need not come oftener."""


class WorkerDied(ClipVipError):
    """The process crashed, was silent for too long or wanted too much memory; the text says which.

    killed: by SIGKILL, and not by us, but mostly by the kernel when memory is short.
    """

    def __init__(self, text: str, killed: bool = False):
        super().__init__(text, killed)
        self.text, self.killed = text, killed

    def __str__(self) -> str:
        return self.text


class NotStarted(ClipVipError):
    """No worker process can be started at all: no fault of what it should work on."""


class MachineLost(ClipVipError):
    """The machine of a worker is gone, or has no room for it any more: no fault of what it worked on."""


class Worker:
    """A child process that does one call at a time, and is replaced after it died. A context manager.

    memory_bytes: limit of its address space (None: no limit). The process is spawned: it imports what it is asked to
    call, and nothing of the caller's state is there.
    """

    def __init__(self, *, memory_bytes: int | None = None):
        self._memory_bytes = memory_bytes
        self._process: Any = None
        self._pipe: Connection | None = None
        self._closed = False
        self._lock = threading.Lock()  # between a thread that calls and one that closes

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def call(self, function: Callable[..., T], *args: Any, timeout_s: float, on_beat: Beat | None = None) -> T:
        """`function(*args)` in the child. With `on_beat`, the function gets one argument more, to be called as it goes.

        timeout_s: the child is killed when it was silent (no beat, no result) for longer.
        Raises: WorkerDied; whatever the function raised, with the child's traceback as a note.
        """
        answer: Any = None
        with closing(self._conversation((function, args, "beats" if on_beat else ""), timeout_s)) as talk:
            for kind, answer in talk:
                if kind == "beat" and on_beat is not None:
                    on_beat(answer)
        return answer

    def stream(self, function: Callable[..., Iterable[T]], *args: Any, timeout_s: float) -> Generator[T]:
        """What `function(*args)` yields in the child, as it comes; the child waits where nobody takes it.

        timeout_s: the child is killed when it was silent for longer; it dies too if the results are not all taken.
        Raises: as `call`, maybe after some results.
        """
        with closing(self._conversation((function, args, "items"), timeout_s)) as talk:
            for kind, value in talk:
                if kind == "item":
                    yield value

    def close(self) -> None:
        """Kill the process, if there is one, and start no other: a call under way ends with WorkerDied."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            process.kill()
            process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._kill()

    def _conversation(self, question: tuple[Any, ...], timeout_s: float) -> Generator[tuple[str, Any]]:
        """What the child has to say to a question, up to ("result", what). Raises: as `call`."""
        ended = False
        try:
            try:
                (self._pipe or self._start()).send(question)
            except OSError:  # it died while it had nothing to do, as the kernel does to some when memory is short
                self._kill()
                self._start().send(question)
            while not ended:
                kind, value = self._receive(timeout_s)
                if kind == "memory":  # what is left of the process after such an error nobody knows
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
            process = context.Process(target=_serve, args=(theirs, self._memory_bytes), daemon=True)
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

    def _receive(self, timeout_s: float) -> tuple[str, Any]:
        assert self._pipe is not None
        try:
            if self._pipe.poll(timeout_s):
                return self._pipe.recv()
        except (EOFError, OSError):
            exit_code = self._kill()
            raise WorkerDied(f"crashed ({_death(exit_code)})", exit_code == -signal.SIGKILL) from None
        self._kill()
        raise WorkerDied(f"was silent for {timeout_s:.0f} s and was killed")

    def _kill(self) -> int:
        """End the process, if there is one; its exit code."""
        process, self._process = self._process, None
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()
        if process is None:
            return 0
        process.join(GOING_S)  # it may be dying already, and should tell of what
        process.kill()
        process.join()
        return -signal.SIGKILL if process.exitcode is None else process.exitcode  # None: another thread saw it go


def call_twice(worker: Worker, function: Callable[..., T], *args: Any, timeout_s: float) -> T:
    """`worker.call`, and once more in a fresh process if something else killed the first. Raises: as `call`."""
    try:
        return worker.call(function, *args, timeout_s=timeout_s)
    except WorkerDied as error:
        if not error.killed or worker.closed:
            raise
        return worker.call(function, *args, timeout_s=timeout_s)


def _death(exit_code: int) -> str:
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"


def _serve(pipe: Connection, memory_bytes: int | None) -> None:
    """The child: calls in, answers out, until the parent is gone."""
    end_with_parent()
    warnings.showwarning = _show_warning
    if memory_bytes is not None and sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    pipe.send(("ready", None))
    while True:
        try:
            function, args, wants = pipe.recv()
            beat = _Beats(pipe)
            result = function(*args, *([beat] if wants == "beats" else []))
            if wants == "items":
                for item in result:
                    pipe.send(("item", item))
                result = None
            answer = ("result", result)
            beat.flush()
        except (EOFError, BrokenPipeError):
            return  # the parent is gone, or has had enough
        except MemoryError:
            answer = ("memory", None)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            if not isinstance(error, ClipVipError):
                error.add_note(traceback.format_exc())
            answer = ("raised", error)
        try:
            pipe.send(answer)
        except (TypeError, AttributeError, ValueError) as error:  # not picklable
            pipe.send(("raised", RuntimeError(f"the answer cannot leave the worker process ({error}): {answer[1]!r}")))


def _show_warning(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
    """As the command line shows its own: one line, without our code."""
    if issubclass(category, ClipVipWarning):
        sys.stderr.write(f"clipvip: {one_line(str(message))}\n")


class _Beats:
    """Gathers signs of life: a message for each of a million quick items would cost more than many of them."""

    def __init__(self, pipe: Connection):
        self._pipe = pipe
        self._count, self._sent = 0, 0.0

    def __call__(self, count: int = 1) -> None:
        self._count += count
        if time.monotonic() - self._sent > BEAT_S:
            self._send()

    def flush(self) -> None:
        """Tell what was not told yet."""
        if self._count:
            self._send()

    def _send(self) -> None:
        self._pipe.send(("beat", self._count))
        self._count, self._sent = 0, time.monotonic()


def end_with_parent() -> None:
    """What a worker does first: Ctrl-C, which reaches all processes of a terminal, is its parent's business, and a
    worker that is busy in C when its parent is killed must not go on for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def usable_cpus() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
