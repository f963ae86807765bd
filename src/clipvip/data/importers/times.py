"""Points in time as annotation files write them: seconds, or clock times like 00:01:02.345 and 01:02,345."""

from __future__ import annotations

import re

from clipvip.data.importers.reading import Entry

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)


def parse_clock(text: str) -> float | None:
    """Seconds of a clock time `[HH:]MM:SS[.mmm]` (a comma will do) or a plain number; None if it is neither."""
    text = text.strip()
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, rest = clock.groups()
        return round(int(hours or 0) * 3600 + int(minutes) * 60 + float(rest.replace(",", ".")), 6)
    return float(text) if _NUMBER.fullmatch(text) else None


def seconds(entry: Entry, key: str) -> float | None:
    """A field that is a number of seconds or a clock time; None where it is missing or empty.

    Raises: ManifestError for anything else.
    """
    value = entry.value.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        return entry.number(key)
    found = parse_clock(value)
    if found is None:
        raise entry.error(key, f"must be seconds or a time like 00:01:02.345, got {value!r}")
    return found
