"""Byte ranges of files, here or behind a URL: all that reading shards needs of a place."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Protocol, TypeAlias

from clipvip.errors import ClipVipError, UsageError

StrPath: TypeAlias = str | os.PathLike[str]

MAX_OPEN = 32
"""Files that a process keeps open at most."""


class Store(Protocol):
    """A place with files. Every failure is a ClipVipError that names the file; picklable."""

    def size(self, path: str) -> int | None:
        """Bytes; None if the place does not tell."""

    def read(self, path: str, start: int, length: int) -> bytes:
        """The bytes from `start` on; fewer than `length` if the file ends before."""

    def open(self, path: str) -> IO[bytes]:
        """The whole file, to be read and closed by the caller."""


class LocalStore:
    """Files of this machine; the last few stay open, each process has its own."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, io.FileIO] = OrderedDict()
        self._lock = threading.Lock()

    def size(self, path: str) -> int:
        """Bytes."""
        with _naming(path):
            return os.stat(path).st_size

    def read(self, path: str, start: int, length: int) -> bytes:
        """The bytes from `start` on."""
        with self._lock, _naming(path):  # another thread might close the file that this one reads
            descriptor = self._opened(path).fileno()
            parts = []
            while length > 0 and (part := os.pread(descriptor, length, start)):
                parts.append(part)
                start, length = start + len(part), length - len(part)
        return b"".join(parts)

    def open(self, path: str) -> IO[bytes]:
        """The whole file."""
        with _naming(path):
            return open(path, "rb")

    def _opened(self, path: str) -> io.FileIO:
        if path in self._files:
            self._files.move_to_end(path)
        else:
            self._files[path] = io.FileIO(path)
            if len(self._files) > MAX_OPEN:
                self._files.popitem(last=False)[1].close()
        return self._files[path]

    def __del__(self) -> None:
        for file in self._files.values():
            file.close()

    def __reduce__(self) -> tuple[type[LocalStore], tuple[()]]:
        return LocalStore, ()


class RemoteStore:
    """Files of one fsspec file system: a request a read, nothing stays open."""

    def __init__(self, system: Any):
        self._system = system

    def size(self, path: str) -> int | None:
        """Bytes; None from a server that does not tell."""
        with _naming(path):
            size = self._system.size(path)
        return None if size is None else int(size)

    def read(self, path: str, start: int, length: int) -> bytes:
        """The bytes from `start` on."""
        with _naming(path):
            return bytes(self._system.cat_file(path, start=start, end=start + length))

    def open(self, path: str) -> IO[bytes]:
        """The whole file, fetched piece by piece."""
        with _naming(path):
            file: IO[bytes] = self._system.open(path, "rb")
            return file


def open_store(location: StrPath) -> tuple[Store, str]:
    """The place that a path or URL is in, and what the file or folder is called there.

    Raises: UsageError for a URL that nothing here can open.
    """
    name = os.fspath(location)
    if name.startswith("file://"):
        name = name.removeprefix("file://")
    elif "://" in name:
        from fsspec.core import url_to_fs  # slow to import: for those who need it

        try:
            system, path = url_to_fs(name)
        except ImportError as error:
            scheme = name.partition("://")[0]
            raise UsageError(
                f"{name}: {scheme} needs a plug-in of fsspec (s3: pip install s3fs; gs: gcsfs; http: aiohttp): {error}"
            ) from error
        except ValueError as error:
            raise UsageError(f"{name}: not a folder here and not a URL that fsspec knows ({error})") from error
        return RemoteStore(system), path.rstrip("/")
    return LocalStore(), os.path.abspath(name)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ClipVipError(f"{path}: no such file; copy it there again, or correct the path") from error
    except Exception as error:  # plug-ins of fsspec raise what they like
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or repr(error)
        raise ClipVipError(f"{path}: cannot be read ({reason})") from error
