"""Files that are there as a whole or not at all, whatever moment a crash picks."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

NAME_BYTES = 255
"""The longest name of a file on the usual file systems."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: the file is moved to `path` if the block ends well, and removed if not."""
    temporary = path.with_name(path.name + ".partial")
    if len(os.fsencode(temporary.name)) > NAME_BYTES:
        temporary = path.with_name(hashlib.sha256(os.fsencode(path.name)).hexdigest() + ".partial")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # the name must not reach the disk before the bytes it stands for
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text file: a reader, or a crash, finds the old text or the new one, never half of it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def same_name(name: str, names: Iterable[str]) -> str:
    """`name` as it is written among `names`: exactly so, or else another form of the same Unicode text; or as it is.

    Macs store é as two code points, most keyboards type one.
    """
    names = list(names)
    if name in names:
        return name
    composed = unicodedata.normalize("NFC", name)
    return next((other for other in names if unicodedata.normalize("NFC", other) == composed), name)


def user_cache() -> Path:
    """Where this user's programs keep what they can make again, a folder in it for clipvip."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "clipvip"


def file_digest(path: Path, method: str = "sha256") -> str:
    """Of all its bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, method).hexdigest()


def folder_bytes(folder: Path) -> int:
    """How much is in all files of a folder, as far as they stay for so long."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """`folder` for this process alone, by a file `.lock` in it; where the system has no locks, for anyone.

    wait: until another process lets go of it. Raises: BlockingIOError if another process has it, without `wait`.
    """
    with (folder / ".lock").open("a") as lock:
        if sys.platform != "win32":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise
            except OSError as error:  # network file systems: some cannot lock
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
        yield
