"""Path patterns and ranges, on tables in memory and as SQL."""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from datetime import date, datetime

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipvip.errors import UsageError
from clipvip.search import Filters
from clipvip.search.query.filters import conditions, glob_regex, mask, sql

PATHS = ["clip.mp4", "holiday/clip.mp4", "holiday/2024/a b.MOV", "holiday/2024/may/x.mkv", "my.holiday/[1]+(2).mp4",
         "日本/größer.webm", "line\nbreak/a.mp4", "it's/100%.avi", "holidays/clip.mp4", "a^b$c|d.gif"]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("clip.mp4", ["clip.mp4", "holiday/clip.mp4", "holidays/clip.mp4"]),
        ("holiday/**", ["holiday/2024/a b.MOV", "holiday/2024/may/x.mkv", "holiday/clip.mp4"]),
        ("holiday/", ["holiday/2024/a b.MOV", "holiday/2024/may/x.mkv", "holiday/clip.mp4"]),
        ("holiday/*", ["holiday/clip.mp4"]),
        ("**/2024/**", ["holiday/2024/a b.MOV", "holiday/2024/may/x.mkv"]),
        ("holiday/**/*.mkv", ["holiday/2024/may/x.mkv"]),
        ("**/clip.mp4", ["clip.mp4", "holiday/clip.mp4", "holidays/clip.mp4"]),
        ("*/clip.mp4", ["holiday/clip.mp4", "holidays/clip.mp4"]),
        ("./clip.???", ["clip.mp4", "holiday/clip.mp4", "holidays/clip.mp4"]),
        ("[[]1]+(2).mp4", ["my.holiday/[1]+(2).mp4"]),
        ("*.[!m]*", ["a^b$c|d.gif", "holiday/2024/a b.MOV", "it's/100%.avi", "日本/größer.webm"]),
        ("*.[a-g]*", ["a^b$c|d.gif", "it's/100%.avi"]),
        ("it's/*", ["it's/100%.avi"]),
        ("line*/*", ["line\nbreak/a.mp4"]),
        ("a^b$c|d.gif", ["a^b$c|d.gif"]),
        ("größer.*", ["日本/größer.webm"]),
        ("nowhere/**", []),
    ],
)
def test_patterns_find_what_people_mean(pattern, found):
    """Catches `*` that crosses folders, `**` that wants one, and characters that regular expressions take for more."""
    assert sorted(path for path in PATHS if re.search(glob_regex(pattern), path)) == sorted(found)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows = pa.table(
        {
            "number": range(len(PATHS)),
            "root": ["/a" if i % 2 else "/it's b" for i in range(len(PATHS))],
            "path": PATHS,
            "mtime_ns": [1_700_000_000_000_000_000 + i * 86_400 * 10**9 for i in range(len(PATHS))],
            "duration_s": [float(i) for i in range(len(PATHS))],
        }
    )
    return lancedb.connect(tmp_path_factory.mktemp("db")).create_table("rows", rows)


letters = st.sampled_from(
    ["*", "?", "**", "/", "[", "]", "!", "-", "^", "\\", "&&", "~~", ".", "a", "c", "ß", "%", "'", "\n"]
)
moments = st.none() | st.integers(1_700_000_000, 1_700_900_000).map(datetime.fromtimestamp)
seconds = st.none() | st.integers(-1, 11)


@settings(max_examples=60, deadline=None)
@given(
    st.none() | st.lists(letters, min_size=1, max_size=6).map("".join) | st.sampled_from(PATHS),
    st.none() | st.sampled_from(["/a", "/it's b"]),
    st.tuples(moments, moments, seconds, seconds),
)
def test_sql_and_tables_in_memory_agree_with_a_loop(table, path, root, bounds):
    """Catches a filter that means one thing in a small library and another in a large one; quotes that break SQL."""
    after, before, shortest, longest = bounds
    filters = Filters(path=path, root=root, after=after, before=before, min_duration_s=shortest, max_duration_s=longest)
    try:
        wanted = conditions(filters)
    except UsageError:
        reversed_ = None not in (shortest, longest) and shortest > longest
        reversed_ |= (None not in (after, before) and after >= before) or (longest or 0) < 0
        assert reversed_ or (path is not None and ("[" in path or path in ("", "./") or path.startswith(("/", ".//"))))
        return
    rows = table.to_arrow()
    expected = [
        row["number"]
        for row in rows.to_pylist()
        if (path is None or re.search(glob_regex(path)[:-1] + r"\Z", row["path"]))
        and root in (None, row["root"])
        and (after is None or row["mtime_ns"] >= after.timestamp() * 1e9)
        and (before is None or row["mtime_ns"] < before.timestamp() * 1e9)
        and (shortest is None or row["duration_s"] >= shortest)
        and (longest is None or row["duration_s"] <= longest)
    ]
    allowed = mask(wanted, rows)
    condition = sql(wanted)
    assert (allowed is None) == (condition is None) == (filters == Filters())
    if condition is not None:
        assert np.flatnonzero(allowed).tolist() == expected
        found = table.search().where(condition).select(["number"]).limit(100).to_arrow()
        assert sorted(found["number"].to_pylist()) == expected


@given(st.text("abc.*?[]!-", min_size=1, max_size=8))
def test_patterns_of_one_name_are_those_of_the_shell(pattern):
    """Catches brackets that are read unlike `fnmatch` reads them, another reading of the same rules."""
    try:
        regex = glob_regex(pattern)
    except UsageError:
        return
    if "**" in pattern or re.search(r"\[[^]]*(-|!)", pattern):
        return  # folders, and ranges, where fnmatch has a mind of its own about the wrong way round
    for name in ("a", "abc", "a.b", "[a]", "a]", "!", "c-a", "b.c.a"):
        assert bool(re.search(regex, name)) == fnmatch.fnmatchcase(name, pattern), name


def test_dates_begin_at_local_midnight():
    """Catches a day that is shifted by the time zone, and one that is left out at either end."""
    day, second = date(2024, 5, 1), 10**9
    [after], [before] = conditions(Filters(after=day)), conditions(Filters(before=day))
    midnight = round(datetime(2024, 5, 1).timestamp()) * second
    assert (after.operator, after.value) == (">=", midnight)
    assert (before.operator, before.value) == ("<", midnight)


def test_dates_of_any_century(table):
    """Catches a traceback for dates whose nanoseconds are no 64-bit numbers; the first day may be no date at all."""
    wanted = conditions(Filters(after=date(2, 1, 1), before=date(9999, 12, 31)))
    assert mask(wanted, table.to_arrow()).all()
    assert table.count_rows(sql(wanted)) == len(PATHS)
    with pytest.raises(UsageError, match="out of range"):
        conditions(Filters(after=date(1, 1, 1)))


@pytest.mark.parametrize("pattern", ["", "holiday/[ab", "[!]", "/home/me/holiday/**", ".//a.mp4"])
def test_patterns_that_cannot_be_read_are_refused(pattern):
    """Catches a mistyped pattern that finds nothing without a word."""
    with pytest.raises(UsageError, match="path"):
        conditions(Filters(path=pattern))


@pytest.mark.parametrize(
    "wrong",
    [
        {"after": date(2025, 1, 1), "before": datetime(2024, 12, 31, 23)},
        {"after": date(2025, 1, 1), "before": date(2025, 1, 1)},
        {"max_duration_s": -1},
        {"min_duration_s": 9.5, "max_duration_s": 3},
        {"min_duration_s": float("nan")},
        {"max_duration_s": float("inf")},
    ],
)
def test_ranges_that_no_video_is_in_are_refused(wrong):
    """Catches bounds the wrong way round that find nothing without a word, and numbers that SQL cannot read."""
    with pytest.raises(UsageError, match=r"a later end|exchange the two|positive|finite"):
        conditions(Filters(**wrong))


def forms_of(path):
    """A path as systems and keyboards write it: composed, in parts, and as Vietnamese keyboards do."""
    composed = unicodedata.normalize("NFC", path)
    mixed = composed.replace("ệ", "ê\u0323").replace("한", "하\u11ab")
    return {composed, unicodedata.normalize("NFD", path), mixed}


UNICODE = ["café/a.mp4", "Việt/x é.mp4", "한국/b.mp4", "が/c.mp4", "cafe/d.mp4", "≠/e.mp4"]


@pytest.mark.parametrize(
    "pattern",
    ["café/**", "café/*.mp4", "caf?/*", "Việt/**", "V*/x ?.mp4", "*é.mp4", "한국/?.mp4", "?국/*", "한*/**", "が/*",
     "?/*", "x [à-é]*", "x [éè].mp4", "caf[!a-d]/*", "caf[e]/*", "cafe/*", "*/e.mp4", "≠/**"],
)  # fmt: skip
def test_patterns_are_compared_in_one_form_of_unicode(tmp_path, pattern):
    """Catches a name stored in parts, as Macs do, that no pattern from a keyboard finds, here or in a large library."""
    stored = sorted({form for path in UNICODE for form in forms_of(path)})
    expected = [path for path in stored if re.search(glob_regex(pattern), unicodedata.normalize("NFC", path))]
    rows = pa.table({"path": stored})
    table = lancedb.connect(tmp_path / "db").create_table("rows", rows)
    for typed in forms_of(pattern):
        wanted = conditions(Filters(path=typed))
        assert rows.filter(mask(wanted, rows))["path"].to_pylist() == expected
        assert sorted(table.search().where(sql(wanted)).limit(100).to_arrow()["path"].to_pylist()) == expected
    assert any(pattern in ("caf[e]/*", "cafe/*", "*/e.mp4") or path != unicodedata.normalize("NFC", path)
               for path in expected)  # fmt: skip
