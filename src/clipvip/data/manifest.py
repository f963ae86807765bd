"""Manifests: JSON Lines, one clip a line; the one data format of clipvip (docs/data.md lists the keys)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clipvip.errors import ManifestError
from clipvip.records import Clip

_STRINGS = ("clip_id", "video", "image", "subtitle", "caption", "split")
_NUMBERS = ("start_s", "end_s")
_KNOWN = {*_STRINGS, *_NUMBERS, "captions"}


def read_manifest(path: Path | str, *, videos: Path | str | None = None, split: str | None = None) -> list[Clip]:
    """All clips of a manifest, or those of one split.

    videos: the folder that media paths are relative to; default: the manifest's own.
    Raises: ManifestError naming file, line and field for a malformed line, a repeated clip_id, or no clip at all.
    """
    path = Path(path)
    root = Path(videos) if videos is not None else path.parent
    clips: list[Clip] = []
    splits: set[str] = set()
    seen: dict[str, int] = {}
    for number, clip in _iter_lines(path, root):
        if (first := seen.setdefault(clip.clip_id, number)) != number:
            raise ManifestError(f"{path}, line {number}: clip_id {clip.clip_id!r} is already used in line {first}")
        if clip.split is not None:
            splits.add(clip.split)
        if split is None or clip.split == split:
            clips.append(clip)
    if not clips:
        known = f" (splits here: {', '.join(sorted(splits)) or 'none'})" if split else ""
        raise ManifestError(f"{path}: no clips{f' of split {split!r}' if split else ''}{known}")
    return clips


def write_manifest(path: Path | str, clips: Iterable[Clip]) -> None:
    """Write clips, media paths relative to the manifest's folder; atomically, so that a reader never sees half."""
    path = Path(path)
    root = path.parent.absolute()
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w", encoding="utf-8") as file:
        for clip in clips:
            file.write(json.dumps(_to_row(clip, root), ensure_ascii=False) + "\n")
    os.replace(temporary, path)


def _iter_lines(path: Path, root: Path) -> Iterator[tuple[int, Clip]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _parse(line, root, f"{path}, line {number}")
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such manifest") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise ManifestError(f"{path}: not a JSON Lines file ({error})") from None


def _parse(line: str, root: Path, where: str) -> Clip:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ManifestError(f"{where}: expected an object, got {type(row).__name__}")
    for key in _STRINGS:
        if (value := row.get(key)) is not None and not isinstance(value, str):
            raise ManifestError(f"{where}: field {key!r} must be a string, got {value!r}")
    for key in _NUMBERS:
        value = row.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0):
            raise ManifestError(f"{where}: field {key!r} must be a number of seconds >= 0, got {value!r}")
    captions = row.get("captions") or []
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise ManifestError(f"{where}: field 'captions' must be a list of strings, got {captions!r}")
    if not row.get("clip_id"):
        raise ManifestError(f"{where}: field 'clip_id' is missing")
    if bool(row.get("video")) == bool(row.get("image")):
        raise ManifestError(f"{where}: exactly one of the fields 'video' and 'image' is needed")
    start, end = row.get("start_s"), row.get("end_s")
    if end is not None and end <= (start or 0.0):
        raise ManifestError(f"{where}: field 'end_s' ({end}) is not after 'start_s' ({start or 0.0})")
    return Clip(
        clip_id=row["clip_id"],
        video=root / row["video"] if row.get("video") else None,
        image=root / row["image"] if row.get("image") else None,
        captions=tuple(captions),
        subtitle=row.get("subtitle"),
        caption=row.get("caption"),
        start_s=start,
        end_s=end,
        split=row.get("split"),
        extra={key: value for key, value in row.items() if key not in _KNOWN},
    )


def _to_row(clip: Clip, root: Path) -> dict[str, Any]:
    kind = "video" if clip.video else "image"
    row: dict[str, Any] = {"clip_id": clip.clip_id, kind: Path(os.path.relpath(clip.path, root)).as_posix()}
    if clip.captions:
        row["captions"] = list(clip.captions)
    for key in ("subtitle", "caption", "start_s", "end_s", "split"):
        if (value := getattr(clip, key)) is not None:
            row[key] = value
    return row | dict(clip.extra)
