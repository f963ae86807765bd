"""Reading annotation files so that every complaint says where: file, line or JSON path, and field."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipvip.data.manifest import KNOWN_KEYS, iter_raw_lines, parse_json_line
from clipvip.errors import ManifestError

_CHUNK = 1 << 20
_KINDS: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)
_DELIMITERS = ("\t", ",", ";", "|")


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a source file and where it stands: `where` is the file (and line), `at` the way inside it."""

    value: dict[str, Any]
    where: str
    at: str = ""

    def error(self, key: str, problem: str) -> ManifestError:
        """The error to raise for a field of this entry."""
        return ManifestError(f"{self.where}: field '{self.at}{key}' {problem}")

    def get(self, key: str, *kinds: type) -> Any:
        """The value of a field. Raises: ManifestError if it is missing or none of `kinds`."""
        value = self.value.get(key)
        if value is None:
            raise self.error(key, "is missing")
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = dict.fromkeys(_KINDS.get(kind, "a number") for kind in kinds)
            raise self.error(key, f"must be {' or '.join(names)}, got {_short(value)}")
        return value

    def text(self, key: str) -> str:
        """A string that is not empty, trimmed."""
        value = str(self.get(key, str)).strip()
        if not value:
            raise self.error(key, "is empty")
        return value

    def name(self, key: str) -> str:
        """An id: a string that is not empty, or a number."""
        value = self.get(key, str, int)
        return str(value) if isinstance(value, int) else self.text(key)

    def number(self, key: str) -> float:
        """A number >= 0."""
        value = self.get(key, int, float)
        if not 0 <= value < float("inf"):
            raise self.error(key, f"must be a number >= 0, got {value}")
        return float(value)

    def seconds(self, key: str) -> float | None:
        """Seconds, as a number or a clock time; None where the field is missing or empty."""
        value = self.value.get(key)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            return self.number(key)
        found = parse_clock(value)
        if found is None:
            raise self.error(key, f"must be seconds or a time like 00:01:02.345, got {value!r}")
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings, possibly empty ones."""
        values = self.get(key, list)
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise self.error(f"{key}[{i}]", f"must be a string, got {_short(value)}")
        return tuple(values)

    def text_or_texts(self, key: str) -> tuple[str, ...]:
        """A string, or a list of strings."""
        value = self.get(key, str, list)
        return (value,) if isinstance(value, str) else self.texts(key)

    def entries(self, key: str) -> Iterator[Entry]:
        """The objects of a list."""
        for i, value in enumerate(self.get(key, list)):
            yield as_entry(value, self.where, f"{self.at}{key}[{i}]")

    def rest(self, *taken: str) -> dict[str, Any]:
        """All other fields, to be carried along; those that mean something else in a manifest are left out."""
        return {key: value for key, value in self.value.items() if key not in taken and key not in KNOWN_KEYS}


def parse_clock(text: str) -> float | None:
    """Seconds of a clock time `[HH:]MM:SS[.mmm]` (a comma will do) or a plain number; None if it is neither."""
    text = text.strip()
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, rest = clock.groups()
        return round(int(hours or 0) * 3600 + int(minutes) * 60 + float(rest.replace(",", ".")), 6)
    return float(text) if _NUMBER.fullmatch(text) else None


def captions_by_id(whole: Entry, items: str, item_id: str, texts: str, text_id: str) -> dict[str, tuple[str, ...]]:
    """The captions of each item, where a file lists items and, apart from them, their captions (as COCO's do).

    Raises: ManifestError for a caption of no item.
    """
    captions: dict[str, list[str]] = {item.name(item_id): [] for item in whole.entries(items)}
    for text in whole.entries(texts):
        name = text.name(text_id)
        if name not in captions:
            raise text.error(text_id, f"{text.value[text_id]!r} is not among the {items} of this file")
        captions[name].append(str(text.get("caption", str)))
    return {name: tuple(found) for name, found in captions.items()}


def as_entry(value: Any, where: str, at: str = "$") -> Entry:
    """`value` as an entry. Raises: ManifestError if it is no object."""
    if not isinstance(value, dict):
        raise ManifestError(f"{where}: field '{at}' must be an object, got {_short(value)}")
    return Entry(value, where, f"{at}.")


def read_json(path: Path) -> Any:
    """A whole JSON file. Raises: ManifestError if it is none."""
    with _readable(path), path.open(encoding="utf-8-sig") as file:
        return json.load(file)


def read_object(path: Path) -> Entry:
    """A JSON file that holds one object."""
    return as_entry(read_json(path), str(path))


def iter_list(path: Path) -> Iterator[Entry]:
    """The objects of a JSON file that holds a list of them, one at a time however large the file is."""
    decode = json.JSONDecoder().raw_decode
    with _readable(path), path.open(encoding="utf-8-sig") as file:
        text = " "
        while text.isspace():
            text = file.read(_CHUNK)
        text = text.lstrip()
        if not text.startswith("["):
            raise ManifestError(f"{path}: expected a JSON list, it begins with {_short(text[:20])}")
        index, position, more = 0, 1, _CHUNK
        while True:
            try:
                position = _past_space(text, position)
                if text[position : position + 1] == "]" and index == 0:
                    position += 1
                    break
                value, end = decode(text, position)
                end = _past_space(text, end)
                if (mark := text[end : end + 1]) not in (",", "]"):
                    raise json.JSONDecodeError("Expecting ',' or ']'", text, end)
                after = _past_space(text, end + 1)
                if mark == "," and after == len(text):
                    raise json.JSONDecodeError("Expecting value", text, after)
            except json.JSONDecodeError as error:  # or the piece in memory ends here
                rest = file.read(more)
                if not rest:
                    raise ManifestError(f"{path}: field '$[{index}]' is not JSON: {error.msg}") from None
                text, position, more = text[position:] + rest, 0, more * 2
                continue
            yield as_entry(value, str(path), f"$[{index}]")
            position, index, more = after, index + 1, _CHUNK
            if mark == "]":
                break
        if text[position:].strip() or file.read(_CHUNK).strip():
            raise ManifestError(f"{path}: something follows the end of the list")


def iter_lines(path: Path) -> Iterator[Entry]:
    """The objects of a JSON Lines file."""
    for number, line in iter_raw_lines(path):
        yield line_entry(path, number, line)


def line_entry(path: Path, number: int, line: bytes) -> Entry:
    """The object of one line of a JSON Lines file."""
    return Entry(parse_json_line(path, number, line), f"{path}, line {number}")


def iter_objects(path: Path) -> Iterator[Entry]:
    """The objects of a file that is a JSON list or JSON Lines."""
    return iter_list(path) if first_character(path) == "[" else iter_lines(path)


def first_character(path: Path) -> str:
    """The first character of a text file that is no white space, "" for an empty one."""
    with _readable(path), path.open(encoding="utf-8-sig") as file:
        return file.read(4096).lstrip()[:1]


@dataclass(frozen=True, slots=True)
class TableShape:
    """How a table is laid out. columns: their names where the file has no header. delimiter: None = recognised.

    quoted: "..." may hold delimiters and line ends. repair: what to do first with the cells of a line.
    """

    columns: tuple[str, ...] | None = None
    delimiter: str | None = None
    quoted: bool = True
    repair: Callable[[list[str]], list[str]] | None = None


def iter_table(path: Path, shape: TableShape, wanted: Sequence[str] = ()) -> Iterator[Entry]:
    """The lines of a CSV or TSV file. wanted: column names that must be there; they also tell the delimiter.

    Raises: ManifestError for a missing column, or a line of another number of cells than the header.
    """
    with _readable(path), path.open("rb") as file:
        first = file.readline().removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
        file.seek(0)
        delimiter = shape.delimiter or _delimiter(first, shape.columns or wanted)
        rows = csv.reader(
            _decoded(file, path),
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if shape.quoted else csv.QUOTE_NONE,
            skipinitialspace=True,
            strict=True,
        )
        columns = shape.columns
        try:
            for cells in rows:
                if not any(cells):
                    continue
                where = f"{path}, line {rows.line_num}"
                cells = [cell.strip() for cell in (shape.repair(cells) if shape.repair else cells)]
                if columns is None:
                    columns = tuple(cells)
                    for name in wanted:
                        if name not in columns:
                            names = ", ".join(columns)
                            raise ManifestError(f"{where}: field {name!r} is missing; the columns are: {names}")
                elif len(cells) != len(columns):
                    # the first field that is too many or too few
                    odd = (*columns, f"number {len(columns) + 1}")[min(len(cells), len(columns))]
                    raise ManifestError(f"{where}: {len(cells)} fields, expected {len(columns)} (see field {odd!r})")
                else:
                    yield Entry(dict(zip(columns, cells, strict=True)), where)
        except csv.Error as error:
            raise ManifestError(f"{path}, line {rows.line_num}: not a table: {error}") from None


def _delimiter(header: str, names: Sequence[str]) -> str:
    """The delimiter under which most of the names appear in the header; without any, the one that is seen most."""
    cells = {mark: {cell.strip().strip('"') for cell in header.split(mark)} for mark in _DELIMITERS}
    return max(_DELIMITERS, key=lambda mark: (len(cells[mark] & set(names)), header.count(mark)))


def _decoded(file: Any, path: Path) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            text: str = line.decode()
        except UnicodeDecodeError as error:
            raise ManifestError(f"{path}, line {number}: not UTF-8 text: {error}") from None
        yield text.removeprefix("\ufeff") if number == 1 else text


def _past_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ManifestError(f"{path}: a folder, expected a file") from None
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError among them
        raise ManifestError(f"{path}: not a UTF-8 text or JSON file: {error}") from None
