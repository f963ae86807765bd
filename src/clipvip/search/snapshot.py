"""All segments of an index as files to be memory-mapped: what exact search reads instead of the tables.

One pair of files a version of the table, made by whoever needs it first and shared by all processes: `NAME.npy` with
the vectors and `NAME.arrow` with the other columns. Shapes: N segments, E embedding size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from clipvip.files import locked, replacing, user_cache

COLUMNS = ["segment_id", "video_id", "root", "path", "mtime_ns", "duration_s", "start_s", "end_s"]
FOLDER = "search-cache"


class Snapshot(NamedTuple):
    """rows: a pyarrow table of `COLUMNS`; vectors: float32 [N, E]; both in the order of the table."""

    rows: Any
    vectors: np.ndarray


def cache_folder(uri: str) -> Path:
    """Where the files of an index are: in its folder, or for an index on an object store in the user's cache."""
    if "://" not in uri:
        return Path(uri, FOLDER)
    return user_cache() / f"{FOLDER}-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"


def version_key(table: Any) -> str:
    """Names the content of a LanceDB table: versions count from 1 again when a table is made anew, but later."""
    version = table.version
    made = next((entry["timestamp"] for entry in reversed(table.list_versions()) if entry["version"] == version), None)
    return f"{version}-{made:%Y%m%d%H%M%S%f}" if made else str(version)


def open_snapshot(table: Any, size: int, folder: Path) -> Snapshot:
    """The segments of this version of the table, from the files if they are there. size: E.

    Where the files cannot be written (a read-only disk, a full one) the segments are kept in memory.
    """
    name = f"segments-{version_key(table)}"
    snapshot = _mapped(folder, name)
    if snapshot is not None:
        return snapshot
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, wait=True):
            snapshot = _mapped(folder, name)  # another process may have been at it
            if snapshot is None:
                _write(table, size, folder, name)
                snapshot = _mapped(folder, name)
    except OSError:
        snapshot = None
    if snapshot is None:
        rows = table.search().select([*COLUMNS, "vector"]).to_arrow()
        vectors = rows["vector"].combine_chunks().flatten().to_numpy()
        snapshot = Snapshot(rows.drop_columns("vector").combine_chunks(), vectors.reshape(len(rows), size))
    return snapshot


def kept(folder: Path, name: str | None, make: Callable[[], np.ndarray]) -> np.ndarray:
    """`make()`, or what it gave before, in a file of that name beside the snapshot. name: None for no file."""
    if name is None:
        return make()
    try:
        return np.load(folder / name)
    except (OSError, ValueError):
        array = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, wait=True):
            with replacing(folder / name) as temporary, temporary.open("wb") as file:
                np.save(file, array)
            for path in folder.glob("tops-*"):
                if path.name != name:  # of another version of the table, or another bank
                    path.unlink(missing_ok=True)
    except OSError:
        pass  # it can be made again
    return array


def _write(table: Any, size: int, folder: Path, name: str) -> None:
    """Both files, a batch at a time; those of other versions go (who has them mapped keeps them)."""
    batches = []
    num_rows = 0
    with replacing(folder / f"{name}.npy") as temporary:
        with temporary.open("wb") as file:
            shape = (table.count_rows(), size)
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for batch in table.search().select([*COLUMNS, "vector"]).to_batches():
                file.write(batch["vector"].flatten().to_numpy().data)
                batches.append(batch.select(COLUMNS))
                num_rows += len(batch)
        if num_rows != shape[0]:
            raise OSError(f"{folder}: {shape[0]} segments were counted and {num_rows} read")
    with replacing(folder / f"{name}.arrow") as temporary:  # last: where it is, the other one is whole
        rows = pa.Table.from_batches(batches) if batches else table.schema.empty_table().select(COLUMNS)
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows.combine_chunks())
    for path in folder.glob("segments-*"):
        if path.stem != name:
            path.unlink(missing_ok=True)


def _mapped(folder: Path, name: str) -> Snapshot | None:
    """None if the files are not there, or not whole."""
    try:
        rows = pa.ipc.open_file(pa.memory_map(str(folder / f"{name}.arrow"))).read_all()
        return Snapshot(rows, np.load(folder / f"{name}.npy", mmap_mode="r" if len(rows) else None))
    except (OSError, ValueError):  # Arrow's errors about damaged files are ValueErrors
        return None
