"""Any table or list of flat objects, by declared fields; and the data sets that are no more than that."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clipvip.data.importers.base import Importer, Notes, Options, merged
from clipvip.data.importers.reading import Entry, TableShape, iter_objects, iter_table
from clipvip.data.media import without_extension
from clipvip.errors import ManifestError, UsageError
from clipvip.records import Clip

_PART = re.compile(r"\{([^{}|:]+)(?:\|(\w+))?(?::0?(\d+))?\}")
_FILTERS: Mapping[str, Callable[[str], str]] = {
    "md5": lambda text: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(),
    "name": lambda text: urlsplit(text).path.rpartition("/")[2],
    "stem": lambda text: without_extension(text.rpartition("/")[2]),
}
_SINGLE = ("clip_id", "video", "image", "subtitle", "caption", "split", "start_s", "end_s")


class Fields:
    """How the fields of an entry become a clip.

    pairs: manifest key -> columns; all but `captions` have one. A "column" with braces is a template:
    `{column}`, `{row}` (number of the entry, from 0, over all sources), `{row:09}` (filled up with zeros),
    `{column|md5}`, `{column|name}` (last part of a path or URL), `{column|stem}` (that without its extension).
    Keys that a manifest does not know are carried along. optional: keys whose column may be missing.
    Raises: UsageError for a malformed declaration.
    """

    def __init__(self, pairs: Mapping[str, Sequence[str]], optional: Sequence[str] = ()):
        self.pairs = {key: tuple(columns) for key, columns in pairs.items()}
        self.optional = frozenset(optional)
        if ("video" in self.pairs) == ("image" in self.pairs):
            raise UsageError(
                "say where the media files are: --field video=COLUMN or --field image=COLUMN; instead of a column "
                "also a template, such as image={row:09}.jpg or image={url|md5}.jpg"
            )
        for key, columns in self.pairs.items():
            if len(columns) > 1 and key != "captions":
                raise UsageError(f"--field {key} is declared twice; only captions may come from several columns")
        for column in (column for columns in self.pairs.values() for column in columns):
            for part in _PART.finditer(column):
                if part[2] and part[2] not in _FILTERS:
                    raise UsageError(f"--field {column}: no filter {part[2]!r}; there are {', '.join(_FILTERS)}")
            if "{" in _PART.sub("", column):
                raise UsageError(f"--field {column}: a brace without its pair")

    def columns(self) -> tuple[str, ...]:
        """The columns that have to be there."""
        names: list[str] = []
        for key, columns in self.pairs.items():
            if key not in self.optional:
                for column in columns:
                    names += [part[1] for part in _PART.finditer(column)] if "{" in column else [column]
        return tuple(name for name in dict.fromkeys(names) if name != "row")

    def clip(self, entry: Entry, row: int) -> Clip:
        """The clip of an entry. Raises: ManifestError for a field that is missing, empty or of the wrong kind."""
        found: dict[str, Any] = {"extra": {}}
        for key, columns in self.pairs.items():
            if key in self.optional and columns[0] not in entry.value:
                continue
            if key == "captions":
                found[key] = tuple(text for column in columns for text in _texts(entry, column, row))
            elif key in ("video", "image"):
                found[key] = Path(_filled(entry, columns[0], row))
            elif key in ("clip_id", "split"):
                found[key] = _filled(entry, columns[0], row)
            elif key in ("start_s", "end_s"):
                found[key] = entry.seconds(columns[0])
            elif key in _SINGLE:
                found[key] = " ".join(_texts(entry, columns[0], row)) or None
            elif "{" in columns[0]:
                found["extra"][key] = _filled(entry, columns[0], row)
            elif columns[0] in entry.value:
                found["extra"][key] = entry.value[columns[0]]
        start_s, end_s = found.get("start_s"), found.get("end_s")
        if end_s is not None and end_s <= (start_s or 0.0):
            raise entry.error(self.pairs["end_s"][0], f"({end_s:g} s) is not after the start ({start_s or 0.0:g} s)")
        if "clip_id" not in found:
            media = without_extension(str(found.get("video") or found.get("image")))
            found["clip_id"] = media if start_s is None else f"{media}@{start_s:g}"
        return Clip(**found)


def read_fields(
    sources: Sequence[Path],
    options: Options,
    notes: Notes,
    *,
    entries: Callable[[Path, Sequence[str]], Iterable[Entry]],
    preset: Mapping[str, Sequence[str]],
    optional: Sequence[str] = (),
    check: Callable[[Entry], None] | None = None,
) -> Iterator[Clip]:
    """The clips of flat entries; `options.fields` replaces what `preset` says about a key."""
    pairs = {**preset, **options.fields}
    fields = Fields(pairs, [key for key in optional if key not in options.fields])
    wanted = fields.columns()
    left: dict[str, None] = {}
    unseen = set(wanted)

    def clips() -> Iterator[Clip]:
        row = 0
        for source in sources:
            for entry in entries(source, wanted):
                if row == 0:
                    used = {*wanted, *(column for columns in pairs.values() for column in columns)}
                    left.update(dict.fromkeys(name for name in entry.value if name not in used))
                if check:
                    check(entry)
                unseen.difference_update(entry.value)
                yield fields.clip(entry, row)
                row += 1

    yield from merged(clips()) if options.merge else clips()
    if unseen:
        names = ", ".join(repr(name) for name in wanted if name in unseen)
        raise ManifestError(f"{', '.join(map(str, sources))}: no entry has the field {names}")
    if left:
        notes.add(f"columns not taken (declare them with --field KEY=COLUMN): {', '.join(left)}", 0)


def _table(source: Path, wanted: Sequence[str], *, shape: TableShape) -> Iterator[Entry]:
    return iter_table(source, shape, wanted)


def _objects(source: Path, wanted: Sequence[str]) -> Iterator[Entry]:
    return iter_objects(source)


def read_table(
    sources: Sequence[Path],
    options: Options,
    notes: Notes,
    *,
    shape: TableShape,
    preset: Mapping[str, Sequence[str]],
    optional: Sequence[str] = (),
    check: Callable[[Entry], None] | None = None,
) -> Iterator[Clip]:
    """The clips of CSV or TSV files; `options.delimiter` and `options.columns` replace what `shape` says."""
    delimiter = {"tab": "\t", r"\t": "\t"}.get(options.delimiter or "", options.delimiter)
    if delimiter is not None and len(delimiter) != 1:
        raise UsageError(f"--delimiter {options.delimiter}: one character, or tab")
    shape = replace(shape, delimiter=delimiter or shape.delimiter, columns=tuple(options.columns) or shape.columns)
    for name in Fields({**preset, **options.fields}, optional).columns():
        if shape.columns and name not in shape.columns:
            raise UsageError(f"--field names a column {name!r}; the columns are: {', '.join(shape.columns)}")
    entries = partial(_table, shape=shape)
    yield from read_fields(sources, options, notes, entries=entries, preset=preset, optional=optional, check=check)


def _texts(entry: Entry, column: str, row: int) -> tuple[str, ...]:
    """The texts of a column: a string, or in JSON also a list; nothing where it is empty."""
    if "{" in column:
        return (_filled(entry, column, row),)
    value = entry.value.get(column)
    if value is None:
        return ()
    return entry.texts(column) if isinstance(value, list) else (str(entry.get(column, str)),)


def _filled(entry: Entry, column: str, row: int) -> str:
    """The value of a column, or a template with the values in it."""
    if "{" not in column:
        return entry.name(column)

    def value(part: re.Match[str]) -> str:
        text = str(row) if part[1] == "row" else entry.name(part[1])
        if part[2]:
            text = _FILTERS[part[2]](text)
            if not text:
                raise entry.error(part[1], f"has no {part[2]}")
        return text.zfill(int(part[3])) if part[3] else text

    return _PART.sub(value, column)


def _check_url(entry: Entry) -> None:
    if "://" not in entry.text("url"):
        raise entry.error("url", f"is no URL: {entry.text('url')[:60]!r} (columns the other way round? cc12m, cc3m)")


def _webvid(path: str) -> Iterable[str]:
    return path.partition("/")[2], path.rpartition("/")[2]


_TABLE = frozenset(("fields", "delimiter", "columns", "merge"))
_URLS: dict[str, Sequence[str]] = {"clip_id": ["{row:09}"], "captions": ["caption"], "url": ["url"]}


def _pairs_with_urls(name: str, about: str, columns: tuple[str, ...], sizes: Mapping[str, int]) -> Importer:
    shape = TableShape(columns=columns, delimiter="\t", quoted=False)
    return Importer(
        name,
        f"{about}; needs --field image=TEMPLATE",
        "TSV...",
        partial(read_table, shape=shape, preset=_URLS, check=_check_url),
        options=frozenset(("fields",)),
        sizes=sizes,
    )


TABLES = (
    Importer(
        "csv",
        "any table with a header (or --columns): --field video=path --field captions=text ...",
        "CSV...",
        partial(read_table, shape=TableShape(), preset={}),
        options=_TABLE,
    ),
    Importer(
        "tsv",
        "the same, tab-separated and without quoting",
        "TSV...",
        partial(read_table, shape=TableShape(delimiter="\t", quoted=False), preset={}),
        options=_TABLE - {"delimiter"},
    ),
    Importer(
        "json",
        "any JSON list or JSON Lines of flat objects: --field video=path --field captions=texts ...",
        "FILE...",
        partial(read_fields, entries=_objects, preset={}),
        options=frozenset(("fields", "merge")),
    ),
    Importer(
        "webvid",
        "WebVid: csv with videoid, name, page_dir (videos/<page_dir>/<videoid>.mp4)",
        "CSV...",
        partial(
            read_table,
            shape=TableShape(delimiter=","),
            preset={
                "clip_id": ["videoid"],
                "video": ["videos/{page_dir}/{videoid}.mp4"],
                "captions": ["name"],
                "duration": ["duration"],
                "contentUrl": ["contentUrl"],
                "page_idx": ["page_idx"],
            },
            optional=("duration", "contentUrl", "page_idx"),
        ),
        options=frozenset(("fields",)),
        spellings=_webvid,
    ),
    _pairs_with_urls("cc3m", "Conceptual Captions 3M: caption TAB url", ("caption", "url"), {"train": 3318333}),
    _pairs_with_urls("cc12m", "Conceptual 12M: url TAB caption", ("url", "caption"), {"train": 12423374}),
    _pairs_with_urls("sbu", "SBU captions: caption TAB url", ("caption", "url"), {"train": 1000000}),
)
