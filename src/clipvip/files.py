"""Files that are there as a whole or not at all, at whatever moment a process dies."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import time
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

FOLDER_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)
NAME_BYTES = 255
"""The longest name of a file on the usual file systems."""


LEFTOVER_S = 60.0
"""A dead process's temporary file is removed when it is this old: a process of another container only seems dead."""
_LEFTOVER = re.compile(r".*\.(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]+)-[0-9a-f]{8}\.partial")
_cleaned: set[Path] = set()


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A temporary name next to `path` to write to: the file is moved to `path` if the block ends well, else removed.

    The name is this call's own: of two that write one file at once, the last to end wins, whole. sync: also safe from a
    power cut; slow for thousands of small files.
    """
    temporary = _temporary_name(path)
    try:
        yield temporary
        if sync:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())  # the name must not reach the disk before the bytes it stands for
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_aside(final: Path) -> Iterator[Path]:
    """A path next to `final` to write a file or folder at; it takes `final`'s name when the block ends well.

    An empty folder at `final` is replaced. If the block fails, what was written is removed.
    """
    final = final.resolve()  # a link, or "."
    final.parent.mkdir(parents=True, exist_ok=True)
    place = _temporary_name(final.with_name(f".{final.name}"))
    place.mkdir(mode=0o700)
    try:
        yield place / final.name
        made = place / final.name
        for file in [made, *made.rglob("*")]:
            if file.is_file():
                with file.open("rb+") as handle:
                    os.fsync(handle.fileno())  # the name must not reach the disk before the bytes it stands for
        if final.is_dir():
            final.rmdir()
        made.rename(final)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _temporary_name(path: Path) -> Path:
    """A name next to `path` that nobody else has; those of killed processes in that folder are removed."""
    if path.parent not in _cleaned:  # once in a process: some folders hold many thousand files
        _cleaned.add(path.parent)
        _remove_leftovers(path.parent)
    ending = f".{_host()}-{os.getpid()}-{secrets.token_hex(4)}.partial"
    if len(os.fsencode(path.name + ending)) > NAME_BYTES:
        return path.with_name(hashlib.sha256(os.fsencode(path.name)).hexdigest() + ending)
    return path.with_name(path.name + ending)


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders of processes of this machine that have died."""
    with suppress(OSError):
        for path in folder.iterdir():
            match = _LEFTOVER.fullmatch(path.name)
            if match is None or match["host"] != _host() or _is_running(int(match["pid"])):
                continue
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > LEFTOVER_S:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _is_running(pid: int) -> bool:
    if sys.platform == "win32":  # where signal 0 is no question
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def replace_text(path: Path, text: str) -> None:
    """Write a text file: a reader, or a crash, finds the old text or the new one, never half of it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds. Raises: ValueError if it is malformed, or nested so deeply that no program wrote it."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def same_name(name: str, names: Iterable[str]) -> str:
    """`name` as it is written among `names`: exactly so, or else another form of the same Unicode text; or as it is.

    Macs store é as two code points, most keyboards type one.
    """
    names = list(names)
    if name in names:
        return name
    composed = unicodedata.normalize("NFC", name)
    return next((other for other in names if unicodedata.normalize("NFC", other) == composed), name)


def open_beneath(root: str | os.PathLike[str], path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file below a folder for reading, links followed as long as they do not lead out of it.

    What was checked is what is open, whatever happens to names and links meanwhile: the links are resolved first, and
    then every folder is opened within the one before, without following any. The caller closes the file.
    Raises: FileNotFoundError if there is no such file below `root`; OSError if it cannot be read.
    """
    top = os.path.realpath(root, strict=True)
    try:
        resolved = os.path.realpath(os.path.join(top, path), strict=True)
        folders = Path(resolved).relative_to(top).parts
    except ValueError:
        raise _not_below(path) from None
    except OSError as error:
        changed = error.errno in (errno.ELOOP, errno.EINVAL, errno.ENOTDIR)  # EINVAL: a link became a file just now
        raise (_not_below(path) if changed else error) from None
    if not folders:
        raise _not_below(path)
    descriptor = _open_within(top, folders)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _not_below(path)
        raw = io.FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    raw.name = os.path.join(top, path)  # what errors call it
    return io.BufferedReader(raw)


def _open_within(top: str, parts: Sequence[str]) -> int:
    """A descriptor of the file `parts` below `top`; no link is followed."""
    if os.open not in os.supports_dir_fd:  # Windows, where only administrators make links
        return os.open(os.path.join(top, *parts), os.O_RDONLY | getattr(os, "O_BINARY", 0))
    folder = os.open(top, FOLDER_FLAGS)
    try:
        for name in parts[:-1]:
            inner = os.open(name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)  # a pipe would block
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):  # it has become something else just now
            raise _not_below(os.path.join(*parts)) from None
        raise
    finally:
        os.close(folder)


def _not_below(path: str | os.PathLike[str]) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "no file below its folder", os.fspath(path))


def user_cache() -> Path:
    """Where this user's programs keep what they can make again, a folder in it for clipvip."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "clipvip"


def file_digest(source: Path | io.BufferedReader, method: str = "sha256") -> str:
    """Return the hexadecimal digest of all bytes of a file, which is open or is opened for it."""
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
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
