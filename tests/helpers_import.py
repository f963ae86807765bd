"""Importing small files in the exact shapes that data sets are published in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipvip.data.importers import FORMATS, Options, Report, run_import


def write(path: Path, content: Any, *, lines: bool = False) -> Path:
    """A text as it is, anything else as JSON (one object a line with `lines`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if lines:
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def touch(folder: Path, *names: str) -> Path:
    """Empty files: importers look at names only."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def imported(
    format_: str, *sources: Path, options: Options | None = None, **settings: Any
) -> tuple[list[dict[str, Any]], Report]:
    """The rows of the manifest that an import writes beside its first source, and the report."""
    out = sources[0].parent / "manifest.jsonl"
    report = run_import(FORMATS[format_], sources, out, options=options, **settings)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert report.clips == len(rows)
    return rows, report
