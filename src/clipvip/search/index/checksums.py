"""Checksums of what an index holds: of rows, of thumbnails, and of files that are read as a whole.

Readers compare them: a changed bit, a zeroed block or a row that belongs elsewhere is an error or a repair, never an
answer. None is a defence against somebody who writes a false checksum. Shapes: n rows, E embedding size.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipvip.files import replacing

HEADER_BYTES = 64
"""Of a checked file: a multiple of Arrow's alignment."""
MULTIPLIER = 0x9E3779B97F4A7C15
"""Odd, so that a product keeps every bit of its other factor."""


class DamagedFile(ValueError):
    """The content of a file is not what was written."""


def row_checksums(rows: Any, columns: Sequence[str]) -> np.ndarray:
    """A checksum of these columns of each row of a pyarrow table, int64 [n]: any single changed bit changes it.

    Only integer arithmetic modulo 2^64, so that it is the same on every machine.
    """
    total = np.zeros(len(rows), np.uint64)
    for name in columns:
        column = rows[name]
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        total = total * np.uint64(MULTIPLIER) + _cell_checksums(column)
    return total.view(np.int64)


def thumbnail_checksum(segment_id: str, jpeg: bytes) -> int:
    """Of a JPEG and the segment that it belongs to."""
    return zlib.crc32(jpeg, zlib.crc32(segment_id.encode()))


def vector_checksums(vectors: np.ndarray) -> np.ndarray:
    """A checksum of each vector, uint64 [n], of float32 [n, E]. Costs less than a product with a query."""
    words = np.ascontiguousarray(vectors, np.float32).view(np.uint64 if vectors.shape[1] % 2 == 0 else np.uint32)
    sums = np.zeros(len(words), np.uint64)
    weights = _weights(words.shape[1])
    for start in range(0, len(words), 1024):  # blocks that stay in the processor's cache
        sums[start : start + 1024] = np.einsum(
            "ij,j->i", words[start : start + 1024].astype(np.uint64, copy=False), weights
        )
    return sums


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


def file_checksum(path: Path) -> int:
    """CRC-32 of all bytes of a file."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _cell_checksums(column: Any) -> np.ndarray:
    """uint64 [n], of an array of strings, numbers or vectors. Nulls count as a number of their own."""
    if pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size
        values = column.values.slice(column.offset * size, len(column) * size)
        vectors = values.to_numpy(zero_copy_only=False).reshape(len(column), size)
        return vector_checksums(vectors)
    if pa.types.is_string(column.type):
        sums = _string_checksums(pc.fill_null(column, ""))
    elif pa.types.is_floating(column.type):
        sums = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False).astype(np.float64).view(np.uint64)
    else:
        sums = pc.fill_null(column, 0).to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)
    if column.null_count:
        sums = np.where(column.is_null().to_numpy(zero_copy_only=False), np.uint64(MULTIPLIER), sums)
    return sums


def _string_checksums(column: Any) -> np.ndarray:
    """uint64 [n]: the bytes of each string, weighted by their place in it."""
    sums = np.zeros(len(column), np.uint64)
    if not len(column):
        return sums
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    lengths = np.diff(offsets)
    if not lengths.any():
        return sums
    data = np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)
    places = np.arange(len(data)) - np.repeat(offsets[:-1] - offsets[0], lengths)
    filled = lengths > 0
    sums[filled] = np.add.reduceat(data * _weights(int(lengths.max()))[places], (offsets[:-1] - offsets[0])[filled])
    return sums


def _weights(count: int) -> np.ndarray:
    """Odd numbers with bits that look random, uint64 [count]."""
    numbers = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(MULTIPLIER)
    numbers ^= numbers >> np.uint64(30)
    numbers *= np.uint64(0xBF58476D1CE4E5B9)
    numbers ^= numbers >> np.uint64(27)
    return numbers | np.uint64(1)
