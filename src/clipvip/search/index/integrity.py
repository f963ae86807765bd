"""What the files of an index in a folder should hold: found by what opens the index, and by a check of all of it.

After each commit `checksums.json` gets the newest version of each table and the checksum of each of its files. A kill
between the two leaves a record that is older than the tables, which is fine: what it names is there, or newer
versions are. If the newest versions are missing, the index is an incomplete copy. Object stores have no such file; they
check what they hold themselves.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipvip.errors import SearchIndexError
from clipvip.files import parse_json, replacing

NAME = "checksums.json"
TABLES = ("segments", "thumbnails", "failures", "roots")
OPTIONAL = "background"
"""A table that may be deleted, after which its versions start at 1 again: only a check looks at the newest."""
CONTENT = ("data", "_deletions", "_indices")
"""Folders of a table whose files never change once they are written."""
LAST_VERSION = 2**64 - 1
"""Newer manifests have smaller names, so that a listing begins with the newest."""
HEADER_BYTES = 64
"""Of a checked file: a multiple of Arrow's alignment."""


class DamagedFile(ValueError):
    pass


@dataclass
class Recorded:
    """newest: the file name of each table's newest manifest. files: size and checksum by path relative to the index."""

    newest: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[int]] = field(default_factory=dict)

    def write(self, index: Path) -> None:
        write_checked(index / NAME, json.dumps(asdict(self), indent=0).encode())


def is_remote(uri: str) -> bool:
    return "://" in uri


def read_recorded(index: Path) -> Recorded | None:
    """None if there is no record, or a damaged one."""
    try:
        return Recorded(**parse_json(open_checked(index / NAME).to_pybytes()))
    except (OSError, ValueError, TypeError):
        return None


def record(index: Path) -> None:
    """Note how the files are now. Files that were noted before and are still there are not read again."""
    old, new = read_recorded(index) or Recorded(), Recorded()
    manifests = {table: newest_manifest(index, table) for table in (*TABLES, OPTIONAL)}
    new.newest = {table: manifest.name for table, manifest in manifests.items() if manifest is not None}
    contents = [path for folder in CONTENT for path in index.glob(f"*.lance/{folder}/**/*") if path.is_file()]
    for path in (*contents, *(manifest for manifest in manifests.values() if manifest is not None)):
        name = path.relative_to(index).as_posix()
        try:
            new.files[name] = old.files.get(name) or state_of(path)
        except FileNotFoundError:
            if path in manifests.values():
                raise
            continue  # another process removes an old version
    if new != old:
        new.write(index)


def check_newest(index: Path) -> None:
    """Raises: SearchIndexError if the newest version of a table is missing, or its manifest is damaged."""
    recorded = read_recorded(index)
    for table in TABLES:
        name = None if recorded is None else recorded.newest.get(table)
        if recorded is None or name is None:
            continue
        newest = newest_manifest(index, table)
        if newest is None or version_of(newest.name) < version_of(name):
            recorded = read_recorded(index)  # another process may have made the index again meanwhile
            if recorded is not None and recorded.newest.get(table) != name:
                return check_newest(index)
            raise SearchIndexError(
                f"{index}: the newest version of its table {table} is missing: it was copied in part, or is damaged; "
                "copy it again, or remove it and index again"
            )
        path = f"{table}.lance/_versions/{name}"
        if newest.name == name and path in recorded.files and state_of(newest) != recorded.files[path]:
            raise SearchIndexError(
                f"{index}: {path} is damaged; restore it from a copy, or remove the index and index again"
            )


def damaged_files(index: Path, on_progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """Paths, relative to the index, of files that are not as they were recorded. Those of old versions may be gone."""
    recorded = read_recorded(index) or Recorded()
    damaged = []
    for number, (name, state) in enumerate(sorted(recorded.files.items()), start=1):
        path = index / name
        try:
            if path.stat().st_size != state[0] or state_of(path) != state:
                damaged.append(name)
        except FileNotFoundError:  # what the tables need and do not find is an error when they are read
            manifest = newest_manifest(index, OPTIONAL)
            if name == f"{OPTIONAL}.lance/_versions/{recorded.newest.get(OPTIONAL)}" and (
                manifest is None or version_of(manifest.name) < version_of(path.name)
            ):
                damaged.append(name)
        on_progress(number, len(recorded.files))
    return damaged


def forget_files(index: Path, names: list[str]) -> None:
    """Have these files recorded as they are now, at the next `record`."""
    recorded = read_recorded(index)
    if recorded is not None:
        for name in names:
            recorded.files.pop(name, None)
        recorded.write(index)


def newest_manifest(index: Path, table: str) -> Path | None:
    manifests = (index / f"{table}.lance" / "_versions").glob("*.manifest")
    return max(manifests, key=lambda path: version_of(path.name), default=None)


def version_of(name: str) -> int:
    """The version that a manifest of this name makes: names of 20 digits count down."""
    number = name.removesuffix(".manifest")
    if not number.isdecimal():
        return -1
    return LAST_VERSION - int(number) if len(number) == 20 else int(number)


def state_of(path: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return [path.stat().st_size, checksum]


def write_checked(path: Path, content: Any) -> None:
    """Replace a file by these bytes below a line with the checksum of its name and of them."""
    header = _header(path.name, content)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(header)
        file.write(content)


def open_checked(path: Path) -> Any:
    """What `write_checked` wrote, a pyarrow buffer mapped from the file.

    Raises: DamagedFile if it is not that; OSError if it cannot be read.
    """
    if path.stat().st_size < HEADER_BYTES:
        raise DamagedFile(f"{path}: damaged")
    content = pa.memory_map(str(path)).read_buffer()
    header, content = content.slice(0, HEADER_BYTES).to_pybytes(), content.slice(HEADER_BYTES)
    if header != _header(path.name, content):
        raise DamagedFile(f"{path}: damaged")
    return content


def _header(name: str, content: Any) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name.encode()))
    return f"clipvip {checksum:08x} {len(content)}".encode().ljust(HEADER_BYTES - 1) + b"\n"
