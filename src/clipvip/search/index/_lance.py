"""How an index is reached: LanceDB's connection, its locks, and its errors as one line."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipvip.errors import ClipVipError, SearchIndexError
from clipvip.files import locked
from clipvip.search.index.integrity import check_newest

REMOTE_LIMITS = {"connect_timeout": "5s", "timeout": "20s", "client_max_retries": "1", "client_retry_timeout": "40"}
"""Of an object store: for a connection, for one request, and for all tries of one."""


def connect(uri: str) -> Any:
    """LanceDB, imported late: most mistakes are found without it. A store that does not answer is an error in time."""
    import lancedb

    return lancedb.connect(uri, storage_options=REMOTE_LIMITS) if is_remote(uri) else lancedb.connect(uri)


def open_if_there(database: Any, name: str) -> Any:
    """The latest version of a table; None if there is none: one that is only just made, or was at a kill, is listed."""
    try:
        return database.open_table(name)
    except ValueError as error:
        if "was not found" not in str(error):
            raise
        return None


def has_segments(database: Any) -> bool:
    """Whether there is an index.

    Raises: ValueError if there is data that belongs to no table: what is left of an index is not to be made anew;
    SearchIndexError as `integrity.check_newest`.
    """
    if not is_remote(database.uri):
        check_newest(Path(database.uri))
    if open_if_there(database, "segments") is not None:
        return True
    if any(Path(database.uri, "segments.lance", "data").glob("*")):
        raise ValueError(
            "its segments are there, their versions are not: it was copied in part, or is damaged; copy it anew, or "
            "remove it and index again"
        )
    return False


def is_remote(uri: str) -> bool:
    """Whether an index lies in an object store, not in a folder."""
    return "://" in uri


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """The index for this process alone: folders have a lock; object stores refuse the slower of two commits instead."""
    if is_remote(uri):
        yield
        return
    os.makedirs(uri, exist_ok=True)
    with locked(Path(uri), wait=True):
        yield


@contextmanager
def one_line_errors(uri: str, what: str) -> Iterator[None]:
    """LanceDB's errors, which are of many kinds and many lines, as one line."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, ClipVipError) or not (
            isinstance(error, RuntimeError | OSError | ValueError) or _is_panic(error)
        ):
            raise
        raise SearchIndexError(f"{uri}: {what} ({_reason(error)})") from error


def _is_panic(error: BaseException) -> bool:
    """Whether it is one of Rust's, whose classes cannot be imported."""
    return type(error).__module__ in ("pyo3_runtime", "pyo3_async_runtimes")


def _reason(error: BaseException) -> str:
    """What went wrong, without LanceDB's own places in its code."""
    text = " ".join(str(error).split())
    if "No space left" in text or getattr(error, "errno", None) == errno.ENOSPC:
        return "no space left on the device; free some, and the same command goes on: what was committed is kept"
    return re.split(r", /\S+\.rs:\d+", text)[0][:300]
