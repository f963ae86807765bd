"""Finished cells: one JSON Lines file per table, one line per cell, in the order of their names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipvip.files import replace_text

Record = dict[str, Any]


def name_of(labels: Mapping[str, Any]) -> str:
    """The unique name of a cell in its table. labels: what `Cell.labels` has, or a whole record."""
    parts = (labels["kind"], labels["family"], labels["level"], labels["row"])
    seeds = f"d{labels['data_seed']}_m{labels['model_seed']}"
    return f"{'_'.join(parts)}_{seeds}".replace(" ", "-").replace("/", "-")


class Results:
    """The finished cells in a folder. Only one process may write to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._tables: dict[str, dict[str, Record]] = {}

    def records(self, table: str) -> list[Record]:
        """All cells of a table, by name."""
        return list(self._read(table).values())

    def find(self, labels: Mapping[str, Any]) -> Record | None:
        """The cell with these labels, whatever its key."""
        return self._read(labels["table"]).get(name_of(labels))

    def write(self, record: Record) -> None:
        """Add a cell, in place of an older one with its labels."""
        table = record["table"]
        by_name = {**self._read(table), name_of(record): record}
        self._tables[table] = dict(sorted(by_name.items()))
        lines = (json.dumps(one, separators=(",", ":")) + "\n" for one in self._tables[table].values())
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_text(self._file(table), "".join(lines))

    def _file(self, table: str) -> Path:
        return self.folder / f"{table}.jsonl"

    def _read(self, table: str) -> dict[str, Record]:
        if table not in self._tables:
            file = self._file(table)
            lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
            self._tables[table] = {name_of(record): record for record in map(json.loads, lines)}
        return self._tables[table]
