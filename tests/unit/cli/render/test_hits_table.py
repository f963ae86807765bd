"""The table of answers: what is cut, what is not, and its times."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from clipvip.cli.render.hits_table import clock, print_hits, shortened
from clipvip.search import Hit, Results


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "M", "Z"]), min_size=1), st.integers(1, 40))
def test_long_names_lose_their_middle(text, width):
    """Catches a line that is wider than its column (wide letters count twice), and a name whose end is lost."""
    short = shortened(text, width)
    assert cell_len(short) <= width
    if short != text:
        head, tail = short.split("…", 1) if "…" not in text else ("", "")
        assert text.startswith(head.rstrip())
        assert text.endswith(tail.lstrip())
    else:
        assert cell_len(text) <= width


@pytest.mark.parametrize(
    ("spans", "told"),
    [
        ([(0.0, 3.0), (75.9, 3600.0)], ["0:00-0:03", "1:15-60:00"]),
        ([(0.4, 0.8), (59.96, 61.0)], ["0:00.4-0:00.8", "1:00.0-1:01.0"]),
    ],
)
def test_times_tell_start_from_end(capsys, spans, told):
    """Catches answers within one second that look empty, tenths that nobody needs, and 0:59.10 or 0:60.0."""
    hits = tuple(Hit(i, 0.5, Path(f"/{i}.mp4"), *span, "s", "v") for i, span in enumerate(spans, 1))
    print_hits("a dog", Results(hits))
    rows = [line for line in capsys.readouterr().out.splitlines() if ".mp4" in line]
    assert [row.split("│")[4].strip() for row in rows] == told
    assert clock(0.999) == "0:00"


def test_nothing_is_cut_in_a_file(capsys):
    """Catches a path that is cut, or broken into lines, where the output goes to a program or a file."""
    path = Path("/a long folder" * 40, "line\nbreak", "x.mp4")
    print_hits("a dog", Results((Hit(1, 0.5, path, 0.0, 3.0, "s", "v"),)))
    [row] = [line for line in capsys.readouterr().out.splitlines() if "x.mp4" in line]
    assert str(path).replace("\n", "\\n") in row
