"""All segments of an index as files to be memory-mapped: what exact search reads instead of the tables.

One pair of files for each version of the table, made by the process that needs it first and shared by all: `NAME.npy`
with the vectors and `NAME.arrow` with the other columns, a checksum of each vector and one of all of it. `facts.json`
next to them has what else a search needs to know: with a current cache it needs none of the tables, and does not import
LanceDB, which takes 1 s or more. Shapes: N segments, E embedding size.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from clipvip.files import locked, parse_json, replacing, user_cache
from clipvip.search.index import integrity
from clipvip.search.index.integrity import is_remote, open_checked, write_checked
from clipvip.search.index.schema import HIT_COLUMNS, SCHEMA_VERSION, Settings, vector_checksums, vectors_of

logger = logging.getLogger(__name__)
FOLDER, FACTS = "search-cache", "facts.json"


class Snapshot(NamedTuple):
    """rows: a pyarrow table of `HIT_COLUMNS`; vectors: float32 [N, E]; both in the order of the table."""

    rows: Any
    vectors: np.ndarray


@dataclass(frozen=True)
class Facts:
    """Of one version of the table of segments.

    manifest, state: the file that makes this version, its size and checksum. key: as `version_key`.
    """

    manifest: str
    state: list[int]
    version: int
    key: str
    num_rows: int
    settings: Settings


def cache_folder(uri: str) -> Path:
    """Where the files of an index are: in its folder, or for an index on an object store in the user's cache."""
    if not is_remote(uri):
        return Path(uri, FOLDER)
    return user_cache() / f"{FOLDER}-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"


def version_key(table: Any) -> str:
    """Names the content of a LanceDB table: versions count from 1 again when a table is made again, but later."""
    version = table.version
    made = next((entry["timestamp"] for entry in reversed(table.list_versions()) if entry["version"] == version), None)
    return f"{version}-{made:%Y%m%d%H%M%S%f}" if made else str(version)


def read_facts(uri: str) -> Facts | None:
    """None if none were noted, they are damaged, or the index has changed since."""
    if is_remote(uri):
        return None
    try:
        values = parse_json(open_checked(cache_folder(uri) / FACTS).to_pybytes())
        facts = Facts(**values | {"settings": Settings.of(values["settings"])})
        newest = integrity.newest_manifest(Path(uri), "segments")
        if facts.settings.schema_version > SCHEMA_VERSION or newest is None or newest.name != facts.manifest:
            return None
        return facts if integrity.state_of(newest) == facts.state else None
    except (OSError, ValueError, TypeError, KeyError):  # such as an old version that another process removes
        return None


def note_facts(uri: str, table: Any, settings: Settings) -> None:
    """Note those of the newest version of the segments, if `table` is that one. A full disk is no error."""
    if is_remote(uri):
        return
    newest = integrity.newest_manifest(Path(uri), "segments")
    if newest is None or integrity.version_of(newest.name) != table.version:
        return
    try:
        state = integrity.state_of(newest)
        key, num_rows = version_key(table), table.count_rows()
        facts = Facts(newest.name, state, table.version, key, num_rows, settings)
        write_checked(cache_folder(uri) / FACTS, json.dumps(asdict(facts)).encode())
    except OSError:
        pass


def open_snapshot(table: Any, size: int, folder: Path, check: Callable[[Any], Any] = lambda rows: rows) -> Snapshot:
    """The segments of this version of the table, from the files if they are there and whole. size: E.

    Where the files cannot be written (a read-only disk, a full one) the segments are kept in memory. check: called with
    rows as they come from the table, see `Store.checked`.
    """
    name = f"segments-{version_key(table)}"
    snapshot = read_snapshot(folder, name, size)
    if snapshot is not None:
        return snapshot
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, wait=True):
            snapshot = read_snapshot(folder, name, size)  # another process may have been at it
            if snapshot is None:
                _write(table, size, folder, name, check)
                snapshot = read_snapshot(folder, name, size)
    except OSError:
        snapshot = None
    if snapshot is None:
        rows = check(table.search().to_arrow())
        snapshot = Snapshot(rows.select(HIT_COLUMNS).combine_chunks(), vectors_of(rows))
    return snapshot


def load_or_make(folder: Path, name: str | None, make: Callable[[], np.ndarray]) -> np.ndarray:
    """`make()`, or what it gave before, float32 [n], in a file of that name next to the snapshot. None: no file."""
    if name is None:
        return make()
    try:
        return np.frombuffer(open_checked(folder / name), np.float32)
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        _report_damage(folder / name)
    array = make().astype(np.float32, copy=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, wait=True):
            write_checked(folder / name, array.tobytes())
            for path in folder.glob("tops-*"):
                if path.name != name:  # of another version of the table, or another bank
                    path.unlink(missing_ok=True)
    except OSError:
        pass  # it can be made again
    return array


def damaged_caches(folder: Path, size: int) -> list[Path]:
    """The files of a cache that are not as they were written; both of a pair. size: E."""
    damaged: list[Path] = []
    for name in {path.stem for path in folder.glob("segments-*") if path.suffix in (".npy", ".arrow")}:
        if read_snapshot(folder, name, size, report=False) is None:
            damaged += [path for path in folder.glob(f"{name}.*") if path.suffix in (".npy", ".arrow")]
    for path in folder.glob("tops-*.npy"):
        try:
            open_checked(path)
        except (OSError, ValueError):
            damaged.append(path)
    return sorted(damaged)


def read_snapshot(folder: Path, name: str, size: int, *, report: bool = True) -> Snapshot | None:
    """None if the files are not there, or not as they were written: that is logged, and they are made again.

    All of both files is read: an error on the disk would be a wrong answer. For 200,000 vectors of 512 numbers that
    takes as long as one search.
    """
    vectors_file, rows_file = folder / f"{name}.npy", folder / f"{name}.arrow"
    try:
        rows = pa.ipc.open_file(open_checked(rows_file)).read_all()
        header = _header(len(rows), size)
        vectors = np.empty((0, size), np.float32)
        with vectors_file.open("rb") as file:
            whole = (
                file.read(len(header)) == header and vectors_file.stat().st_size == len(header) + 4 * len(rows) * size
            )
        if whole and len(rows):
            vectors = np.memmap(vectors_file, np.float32, "r", len(header), (len(rows), size))
        if whole and np.array_equal(vector_checksums(vectors), rows["vector_checksum"].to_numpy()):
            return Snapshot(rows.select(HIT_COLUMNS), vectors)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError):  # Arrow's errors about damaged files are ValueErrors
        pass
    if report:
        _report_damage(vectors_file)
    return None


def _write(table: Any, size: int, folder: Path, name: str, check: Callable[[Any], Any]) -> None:
    """Both files, a batch at a time. Those of other versions are removed; a process that has them mapped keeps them."""
    batches = []
    num_rows = 0
    with replacing(folder / f"{name}.npy") as temporary:
        with temporary.open("wb") as file:
            expected_rows = table.count_rows()
            file.write(_header(expected_rows, size))
            for batch in table.search().to_batches():
                check(batch)
                vectors = vectors_of(batch)
                file.write(vectors.data)
                checksums = pa.array(vector_checksums(vectors))
                batches.append(batch.select(HIT_COLUMNS).append_column("vector_checksum", checksums))
                num_rows += len(batch)
        if num_rows != expected_rows:
            raise OSError(f"{folder}: {expected_rows} segments were counted and {num_rows} read")
    rows = pa.Table.from_batches(batches) if batches else _no_rows(table)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())
    write_checked(folder / f"{name}.arrow", sink.getvalue())  # last: where it is, the other one is whole
    for path in folder.glob("segments-*"):
        if path.stem != name:
            path.unlink(missing_ok=True)


def _no_rows(table: Any) -> Any:
    return table.schema.empty_table().select(HIT_COLUMNS).append_column("vector_checksum", pa.array([], pa.uint64()))


def _header(num_rows: int, size: int) -> bytes:
    header = io.BytesIO()
    shape = (num_rows, size)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _report_damage(path: Path) -> None:
    logger.warning("%s: the cache of the index is damaged; it is made again", path)
