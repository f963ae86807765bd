"""What the server asks of a library, until the library itself answers it."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np

from clipvip.search import Library


def video_id_of(root: str, path: str) -> str:
    return sha256(f"{root}\0{path}".encode()).hexdigest()[:16]


class Catalog:
    def __init__(self, library: Library):
        self.library = library
        rows, self.vectors = library._contents
        self.rows = rows.to_pylist()
        self.segments: dict[str, int] = {}
        self.videos: dict[str, list[int]] = {}
        for number, row in enumerate(self.rows):
            row["video_id"] = video_id_of(row["root"], row["path"])
            self.segments[row["segment_id"]] = number
            self.videos.setdefault(row["video_id"], []).append(number)
        self.roots = sorted({row["root"] for row in self.rows})

    def search(self, vector: np.ndarray, k: int, offset: int) -> Iterator[dict[str, Any]]:
        scores = self.vectors @ vector
        for rank, number in enumerate(np.argsort(-scores, kind="stable")[offset : offset + k], offset + 1):
            yield {"rank": rank, "score": float(scores[number]), **self.told(self.rows[number])}

    def told(self, row: dict[str, Any]) -> dict[str, Any]:
        names = ("video_id", "segment_id", "root", "path", "start_s", "end_s", "duration_s")
        return {name: row[name] for name in names} | {"width": None, "height": None}
