"""Manifests: JSON Lines, one clip a line; the one data format of clipvip (docs/data.md lists the keys).

Reading and writing stream, so that millions of lines need no more memory than one (and 70 bytes an id to find repeats).
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from clipvip.errors import ManifestError
from clipvip.files import replacing
from clipvip.records import Clip

_STRINGS = ("clip_id", "video", "image", "subtitle", "caption", "split")
_NUMBERS = ("start_s", "end_s")
KNOWN_KEYS = frozenset((*_STRINGS, *_NUMBERS, "captions"))
"""The keys that clipvip gives a meaning; all others are carried along."""
_LATEST_S = 1e9  # beyond any video; keeps arithmetic on times exact


def iter_manifest(
    path: Path | str, *, videos: Path | str | None = None, split: str | None = None, unique: bool = True
) -> Iterator[Clip]:
    """The clips of a manifest one by one, or those of one split; every line is checked.

    videos: the folder that media paths are relative to; default: the manifest's own. unique: a repeated clip_id is an
    error (noticed by a 64-bit hash); False for tools that count repeats themselves.
    Raises: ManifestError naming file, line and field for a malformed line or a repeated clip_id.
    """
    path = Path(path)
    root = Path(videos) if videos is not None else path.parent
    seen: dict[int, int] = {}
    for number, row in iter_json_lines(path):
        clip = _parse(row, root, path, number)
        if unique and (first := seen.setdefault(hash(clip.clip_id), number)) != number:
            raise ManifestError(f"{path}, line {number}: clip_id {clip.clip_id!r} is already used in line {first}")
        if split is None or clip.split == split:
            yield clip


def read_manifest(path: Path | str, *, videos: Path | str | None = None, split: str | None = None) -> list[Clip]:
    """All clips of a manifest, or those of one split.

    videos: the folder that media paths are relative to; default: the manifest's own.
    Raises: ManifestError naming file, line and field for a malformed line, a repeated clip_id, or no clip at all.
    """
    clips: list[Clip] = []
    splits: set[str] = set()
    for clip in iter_manifest(path, videos=videos):
        if clip.split is not None:
            splits.add(clip.split)
        if split is None or clip.split == split:
            clips.append(clip)
    if not clips:
        raise _no_clips(path, split, splits)
    return clips


def validate_manifest(path: Path | str, *, split: str | None = None) -> int:
    """Check every line of a manifest as the readers do, in one pass.

    Returns: the number of clips, or of those of a split. Raises: ManifestError as `read_manifest`.
    """
    splits = Counter(clip.split for clip in iter_manifest(path))
    count = splits.total() if split is None else splits[split]
    if not count:
        raise _no_clips(path, split, {name for name in splits if name is not None})
    return count


def write_manifest(path: Path | str, clips: Iterable[Clip], *, videos: Path | str | None = None) -> int:
    """Write clips as they come; the file takes its name when it is complete, so that a reader never sees half.

    videos: the folder that media paths are written relative to; default: the manifest's own.
    Returns: the number of clips. If `clips` raises, an old file stays as it was.
    """
    path = Path(path)
    root = os.path.abspath(path.parent if videos is None else videos)
    relative = lru_cache(maxsize=4096)(_relative)  # of one call: the working directory may change between two
    count = 0
    with replacing(path) as temporary, temporary.open("wb") as file:
        for clip in clips:
            folder, name = os.path.split(clip.path)
            file.write(_line(_to_row(clip, relative(folder, root) + name)))
            count += 1
    return count


def iter_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers (from 1) and objects of a JSON Lines file; empty lines are passed over.

    Raises: ManifestError naming the line that is no JSON object.
    """
    for number, line in iter_raw_lines(path):
        yield number, parse_json_line(path, number, line)


def parse_json_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """The object that a line of a file holds. Raises: ManifestError naming the line if it holds none."""
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}, line {number}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ManifestError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
    return row


def iter_raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line numbers (from 1) and lines of a JSON Lines file as they stand there; empty lines are passed over."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # what Windows editors put in front
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such manifest") from None
    except IsADirectoryError:
        raise ManifestError(f"{path}: a folder, not a JSON Lines file") from None


def _parse(row: dict[str, Any], root: Path, path: Path, number: int) -> Clip:
    get = row.get
    for key in _STRINGS:
        if (value := get(key)) is not None and not isinstance(value, str):
            raise _malformed(path, number, f"field {key!r} must be a string, got {value!r}")
    for key in _NUMBERS:
        value = get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0):
            raise _malformed(path, number, f"field {key!r} must be a number of seconds >= 0, got {value!r}")
        if value is not None and value > _LATEST_S:
            raise _malformed(path, number, f"field {key!r} is beyond any video; leave it out for an open end")
    captions = get("captions")
    if captions is None:
        captions = ()
    elif not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise _malformed(path, number, f"field 'captions' must be a list of strings, got {captions!r}")
    if not get("clip_id"):
        raise _malformed(path, number, "field 'clip_id' is missing")
    video, image = get("video"), get("image")
    if bool(video) == bool(image):
        raise _malformed(path, number, "exactly one of the fields 'video' and 'image' is needed")
    if "\0" in str(video or image):
        raise _malformed(path, number, f"field {'video' if video else 'image'!r} is no path (it holds a zero byte)")
    start, end = get("start_s"), get("end_s")
    if end is not None and end <= (start or 0.0):
        raise _malformed(path, number, f"field 'end_s' ({end}) is not after 'start_s' ({start or 0.0})")
    return Clip(
        clip_id=row["clip_id"],
        video=root / video if video else None,
        image=root / image if image else None,
        captions=tuple(captions),
        subtitle=get("subtitle"),
        caption=get("caption"),
        start_s=start,
        end_s=end,
        # the same few words in every line: kept once
        split=sys.intern(row["split"]) if get("split") is not None else None,
        extra={sys.intern(key): value for key, value in row.items() if key not in KNOWN_KEYS},
    )


def _no_clips(path: Path | str, split: str | None, splits: set[str]) -> ManifestError:
    known = f" (splits here: {', '.join(sorted(splits)) or 'none'})" if split else ""
    return ManifestError(f"{path}: no clips{f' of split {split!r}' if split else ''}{known}")


def _malformed(path: Path, number: int, problem: str) -> ManifestError:
    return ManifestError(f"{path}, line {number}: {problem}")


def _to_row(clip: Clip, media: str) -> dict[str, Any]:
    row: dict[str, Any] = {"clip_id": clip.clip_id, "video" if clip.video else "image": media}
    if clip.captions:
        row["captions"] = list(clip.captions)
    for key in ("subtitle", "caption", "start_s", "end_s", "split"):
        if (value := getattr(clip, key)) is not None:
            row[key] = value
    return row | dict(clip.extra)


def _relative(folder: str, root: str) -> str:
    """`folder` as seen from `root` (absolute), "" or with a slash at its end."""
    folder = folder or os.curdir
    relative = os.path.relpath(folder, root)
    if os.pardir in (*relative.split(os.sep), *folder.split(os.sep)):
        # ".." leads out of the folder that a link points at, not of the one that holds the link
        relative = os.path.relpath(os.path.realpath(folder), os.path.realpath(root))
    return "" if relative == os.curdir else Path(relative).as_posix() + "/"


def _line(row: dict[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except (
        UnicodeEncodeError
    ):  # half a character, as in file names that are not UTF-8: only escaped it stays what it is
        return json.dumps(row).encode() + b"\n"
