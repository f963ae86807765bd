"""Which segments may answer: a query's filters as conditions on columns, for SQL and for tables in memory alike."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Sequence
from datetime import date, datetime
from functools import lru_cache
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from clipvip.errors import UsageError
from clipvip.search.query.query import Filters

MARKS = "[\u0300-\u036f\u05b0-\u05c7\u0653-\u0655\u093c\u1161-\u1175\u11a8-\u11c2\u3099\u309a]"
"""What may follow the first part of a character that is stored in parts: accents, voicing marks, Korean letters."""
LARGE_RANGE = 1000


class Condition(NamedTuple):
    """A column and what it must be: "=", ">=", "<" or "<=" a value, "starts with" it, or "matches" it (a regex)."""

    column: str
    operator: str
    value: str | int | float


def conditions(filters: Filters) -> list[Condition]:
    """All of these must hold. Raises: UsageError for a pattern that cannot be read or an empty range."""
    found: list[Condition] = []
    if filters.path is not None:
        found += _path_conditions(filters.path)
    if filters.root is not None:
        found.append(Condition("root", "=", os.path.abspath(filters.root).replace(os.sep, "/")))
    after, before, shortest, longest = filters.after, filters.before, filters.min_duration_s, filters.max_duration_s
    ranges: list[tuple[str, str, int | float | None]] = [
        ("mtime_ns", ">=", _ns(after)),
        ("mtime_ns", "<", _ns(before)),
        ("duration_s", ">=", shortest),
        ("duration_s", "<=", longest),
    ]
    if after is not None and before is not None and (_ns(after) or 0) >= (_ns(before) or 0):
        raise UsageError(f"changed after {after} and before {before}: no time is both; choose a later end")
    if not all(math.isfinite(bound) for bound in (shortest, longest) if bound is not None):
        raise UsageError(f"a duration of {shortest} to {longest} s: choose finite numbers")
    if shortest is not None and longest is not None and shortest > longest:
        raise UsageError(f"a duration of {shortest:g} to {longest:g} s: no video is both; exchange the two")
    if longest is not None and longest < 0:
        raise UsageError(f"a duration of at most {longest:g} s: no video is that short; choose a positive number")
    return found + [Condition(column, operator, value) for column, operator, value in ranges if value is not None]


def sql(wanted: Sequence[Condition]) -> str | None:
    """As LanceDB reads it; None for no condition."""
    return " AND ".join(_sql(condition) for condition in wanted) or None


def mask(wanted: Sequence[Condition], rows: Any) -> np.ndarray | None:
    """Of each row of a pyarrow table, whether it may answer, bool [N]; None for no condition."""
    import pyarrow.compute as pc

    operators = {"=": pc.equal, ">=": pc.greater_equal, "<": pc.less, "<=": pc.less_equal}
    allowed: np.ndarray | None = None
    for column, operator, value in wanted:
        if operator == "matches":
            holds = pc.match_substring_regex(rows[column], value)
        elif operator == "starts with":
            holds = pc.starts_with(rows[column], value)
        else:
            holds = operators[operator](rows[column], value)
        holds = holds.to_numpy()
        allowed = holds if allowed is None else allowed & holds
    return allowed


def _path_conditions(pattern: str) -> list[Condition]:
    """What a pattern begins with is a condition of its own: an index of paths knows it at once."""
    pattern = unicodedata.normalize("NFC", pattern)
    matches = Condition("path", "matches", glob_regex(pattern))
    literal = re.split(r"[*?\[]", pattern.removeprefix("./"), maxsplit=1)[0]
    literal = "".join(takewhile(lambda char: len(_forms(char)) == 1, literal))
    folder = literal[: literal.rfind("/") + 1]
    if not folder:
        return [matches]
    starts = Condition("path", "starts with", folder)
    return [starts] if pattern.removeprefix("./") in (folder, folder + "**") else [starts, matches]


def glob_regex(pattern: str) -> str:
    """A path pattern (see `Filters`) as a regular expression that Rust, RE2 and Python read alike.

    It matches a path if the pattern matches the path's NFC form: é may be stored as one code point (as most systems do)
    or as two (as Macs do).
    Raises: UsageError for an empty or absolute pattern, a `[` that is never closed, or a range that runs backwards.
    """
    if not pattern:
        raise UsageError("path: an empty pattern; write for example 'holiday/**'")
    if pattern.removeprefix("./").startswith("/"):
        raise UsageError(
            f"path: {pattern!r}: begin below the indexed folder, without a /; to choose that, filter by root"
        )
    parts = unicodedata.normalize("NFC", pattern).removeprefix("./").split("/")
    if len(parts) == 1:
        parts = ["**", *parts]
    if parts[-1] == "":  # "holiday/": what is in that folder
        parts[-1] = "**"
    regex = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            regex += ".*" if last else "(?:[^/]+/)*"
        else:
            regex += _name_regex(part, pattern) + ("" if last else "/")
    try:
        re.compile(regex)
    except re.error as error:
        raise UsageError(
            f"path: {pattern!r}: {error.msg}; in brackets stand characters, or ranges such as [a-c]"
        ) from None
    return f"(?s)^{regex}$"


def _name_regex(part: str, pattern: str) -> str:
    regex, at = "", 0
    while at < len(part):
        char = part[at]
        at += 1
        if char == "*":
            regex += "[^/]*"
        elif char == "?":
            regex += f"[^/]{MARKS}*"
        elif char == "[":
            end = part.find("]", at + 2 if part[at : at + 1] == "!" else at + 1)
            if end < 0:
                raise UsageError(f"path: {pattern!r}: the [ is never closed; for the character itself write [[]")
            inside, at = part[at:end], end + 1
            negated = inside.startswith("!")
            letters = re.sub(r"([\[\]\\^&~])", r"\\\1", inside.removeprefix("!"))
            if negated:
                regex += f"[^/{letters}]{MARKS}*"
            else:
                others = [form for letter in _listed(inside) for form in _forms(letter)[1:]]
                regex += f"(?:{'|'.join([f'[{letters}]', *others])})" if others else f"[{letters}]"
        else:
            regex += _literal(char)
    return regex


def _literal(char: str) -> str:
    forms = _forms(char)
    return f"(?:{'|'.join(forms)})" if len(forms) > 1 else "\\" + char if char in r"\.+*?()|[]{}^$" else char


def _listed(inside: str) -> list[str]:
    """The letters that brackets with `inside` stand for, as far as ranges are not large."""
    letters, at = list[str](), 0
    while at < len(inside):
        if inside[at + 1 : at + 2] == "-" and at + 2 < len(inside):
            first, last = ord(inside[at]), ord(inside[at + 2])
            letters += map(chr, range(first, last + 1)) if last - first < LARGE_RANGE else []
            at += 3
        else:
            letters.append(inside[at])
            at += 1
    return letters


@lru_cache(maxsize=4096)
def _forms(char: str) -> tuple[str, ...]:
    """The ways in which a character of NFC may be stored, itself first: whole, in parts, or some of its marks apart."""
    parts = unicodedata.normalize("NFD", char)
    forms = {char: None, parts: None}
    for count in range(1, len(parts)):
        forms[unicodedata.normalize("NFC", parts[:count]) + parts[count:]] = None
        forms[unicodedata.normalize("NFC", parts[0] + parts[count]) + parts[1:count] + parts[count + 1 :]] = None
    return tuple(form for form in forms if unicodedata.normalize("NFC", form) == char) or (char,)


def _ns(when: date | datetime | None) -> int | None:
    """Nanoseconds since 1970, in 64 bits; a date stands for its first moment, in local time."""
    if when is None:
        return None
    if not isinstance(when, datetime):
        when = datetime(when.year, when.month, when.day)
    try:
        return min(max(round(when.timestamp() * 1_000_000) * 1000, 1 - 2**63), 2**63 - 1)
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"{when}: a date out of range; choose another") from None


def _sql(condition: Condition) -> str:
    column, operator, value = condition
    if isinstance(value, str):
        quoted = "'" + value.replace("'", "''") + "'"
        functions = {"matches": "regexp_like", "starts with": "starts_with"}
        return f"{functions[operator]}({column}, {quoted})" if operator in functions else f"{column} = {quoted}"
    return f"{column} {operator} {value!r}"
