"""Copies of videos that browsers cannot play, in a folder that does not outgrow its limit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from clipvip.files import replacing

RECIPE = 2
"""Another number for every change of how copies are made."""

ABANDONED_S = 3600.0


@dataclass(slots=True)
class _Making:
    """A copy that is being made, or waited for, by some threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    num_threads: int = 0


class PlayCache:
    """Copies by the state of their source (its names and numbers); the ones not looked at for longest go first.

    A copy that several ask for is made once. For any thread.
    """

    def __init__(self, folder: Path, max_bytes: int):
        self.folder = folder
        self.max_bytes = max_bytes
        self._making: dict[Path, _Making] = {}
        self._guard = threading.Lock()

    def find(self, state: tuple[object, ...]) -> Path | None:
        """The copy of a file in this state, if there is one."""
        copy = self._copy(state)
        try:
            # looked at now; the time of its content stays, which clients know it by
            os.utime(copy, ns=(time.time_ns(), copy.stat().st_mtime_ns))
        except OSError:
            return None
        return copy

    def find_or_make(self, state: tuple[object, ...], make: Callable[[Path], None]) -> Path:
        """The same, made by `make(target)` if need be. Raises: what that raises; OSError."""
        copy = self._copy(state)
        with self._alone_with(copy):
            if (found := self.find(state)) is not None:
                return found
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(copy) as target:
                make(target)
            self.make_room(copy)
            return copy

    @contextmanager
    def _alone_with(self, copy: Path) -> Iterator[None]:
        with self._guard:
            making = self._making.setdefault(copy, _Making())
            making.num_threads += 1
        try:
            with making.lock:
                yield
        finally:
            with self._guard:
                making.num_threads -= 1
                if not making.num_threads:
                    del self._making[copy]

    def _copy(self, state: tuple[object, ...]) -> Path:
        key = "\0".join(map(str, (RECIPE, *state)))
        return self.folder / f"{sha256(os.fsencode(key)).hexdigest()[:32]}.mp4"

    def make_room(self, newest: Path) -> None:
        """Delete what is too much beside `newest`, never that itself; also what a killed server left half-made.

        Whoever makes a copy calls it as that grows.
        """
        others, room = [], self.max_bytes
        for path in self.folder.iterdir():
            with suppress(OSError):
                status = path.stat()
                if path == newest:
                    room -= status.st_size
                elif path.suffix == ".partial":
                    if time.time() - status.st_mtime > ABANDONED_S:
                        path.unlink()
                    else:
                        room -= status.st_size
                else:
                    others.append((status.st_atime_ns, status.st_size, path))
        for _, size, path in sorted(others, reverse=True):
            room -= size
            if room < 0:
                with suppress(OSError):
                    path.unlink()
