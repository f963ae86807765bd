"""Things for workers to do, good and bad; in a module of their own, so that spawned processes can import them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clipvip.errors import VideoDecodeError
from clipvip.jobs import Beat, Worker

CRASH, HANG, HOG, BUG, BAD = "crash", "hang", "hog", "bug", "bad"


def do(item: str) -> str:
    """Capitals of an item; the names above are what they say."""
    if item == CRASH:
        ctypes.string_at(0)
    elif item == HANG:
        while True:
            pass
    elif item == HOG:
        return "".join(bytes(2**30).hex() for _ in range(64))
    elif item == BUG:
        raise ZeroDivisionError("a bug")
    elif item == BAD:
        raise VideoDecodeError("bad.mp4: damaged; leave it out")
    return item.upper()


def beat_for(seconds: float, beat: Beat) -> float:
    """Be busy, with a sign of life every tenth of a second."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.1)
        beat()
    return seconds


def unpicklable() -> Any:
    """Something that cannot leave its process."""
    return lambda: None


def process_id() -> int:
    """Of the worker."""
    return os.getpid()


class Shout:
    """The task: a line of capitals an item. `trace` gets a line for every item that was done, however often."""

    name = "shout"
    suffix = ".txt"
    memory_bytes: int | None = 2 << 30

    def __init__(self, trace: Path, greeting: str = "", pause_s: float = 0.0):
        self.trace, self.greeting, self.pause_s = trace, greeting, pause_s

    def settings(self) -> dict[str, Any]:
        """The greeting is in the file."""
        return {"greeting": self.greeting}

    def name_of(self, item: str) -> str:
        """The item itself."""
        return item

    def timeout_s(self, item: str) -> float:
        """Little."""
        return 3.0

    def run(self, items: Sequence[str], path: Path, beat: Beat) -> dict[str, Any]:
        """Write the lines; bad items are failures."""
        lines, failures = [], []
        for item in items:
            time.sleep(self.pause_s)
            try:
                lines.append(f"{self.greeting}{do(item)}\n")
            except VideoDecodeError as error:
                failures.append((item, str(error)))
            with self.trace.open("a") as trace:
                trace.write(f"{item}\n")
            beat()
        path.write_text("".join(lines))
        return {"failures": failures, "lines": len(lines)}


def crash_on(path: Path) -> None:
    """What some files do to FFmpeg."""
    ctypes.string_at(0)


def count_and_crash(path: Path) -> Iterator[int]:
    """What other files do to it, half-way."""
    yield from range(3)
    ctypes.string_at(0)


def count_to(number: int) -> Iterator[int]:
    """1, 2, 3, and an error after the last."""
    yield from range(1, number + 1)
    raise VideoDecodeError(f"{number} is as far as it goes")


def die_the_first_time(trace: Path) -> str:
    """As a process does that the kernel kills when memory is short."""
    if not trace.exists():
        trace.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second"


def send_each(items: Sequence[Any], send: Callable[[Any], None]) -> int:
    """Report on the way."""
    for item in items:
        send(item)
    return len(items)


class FussyError(Exception):
    """An error that cannot be made again from its pickle."""

    def __init__(self, text: str, code: int):
        super().__init__(f"{text} ({code})")


def raise_fussy() -> None:
    """Fail with it."""
    raise FussyError("a fussy one", 7)


def wait_for_sigterm(ready: Path) -> None:
    """End with an exit code of its own when it is asked to."""
    signal.signal(signal.SIGTERM, lambda *_: (ready.with_name("asked").touch(), os._exit(9)))
    ready.touch()
    while True:
        time.sleep(0.01)


def decode_in_a_child(item: str) -> str:
    """As an index job does: a worker that has a worker."""
    with Worker() as worker:
        return worker.call(do, item, timeout_s=60)
