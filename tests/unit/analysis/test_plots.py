"""Figures: always with their table, always the same, and readable in print."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from clipvip.analysis.plots import drawing, look, note

ROWS = [{"x": 1, "y": 2.5}, {"x": 2, "y": None, "what": "a, b"}]


def draw(stem: Path) -> Figure:
    with drawing(stem, ROWS, height=2.5) as figure:
        axes = figure.subplots()
        axes.plot([1, 2], [2.5, 3], **look(0), label="one")
        axes.set(xlabel="x (s)", ylabel="y (%)", title="title")
        axes.legend()
        note(figure, "what it shows " * 30)
    return figure


def test_a_figure_and_its_numbers_come_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a figure without its table, another picture of the same numbers, and a user's settings that leak in."""
    draw(tmp_path / "one")
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30)
    draw(tmp_path / "two")
    assert matplotlib.rcParams["font.size"] == 30
    for kind in ("png", "pdf", "csv"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()
    with (tmp_path / "one.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [{"x": "1", "y": "2.5", "what": ""}, {"x": "2", "y": "", "what": "a, b"}]


def test_nothing_is_left_of_a_drawing_that_fails(tmp_path: Path) -> None:
    """Catches a table beside a figure that was never finished."""
    with pytest.raises(ZeroDivisionError), drawing(tmp_path / "one", ROWS):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_letters_can_be_read_in_print(tmp_path: Path) -> None:
    """Catches text below 8 points, and a caption that runs off the page."""
    figure = draw(tmp_path / "one")
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert len(texts) > 5
    assert min(text.get_fontsize() for text in texts) >= 8
    drawn = figure.get_tightbbox()  # inches
    assert (drawn.x0, drawn.y0) >= (0, 0)
    assert (drawn.x1, drawn.y1) <= tuple(figure.get_size_inches())


def test_series_are_told_apart_in_grey() -> None:
    """Catches two series that differ in colour alone."""
    styles = [look(number) for number in range(56)]
    assert len({tuple(style.values()) for style in styles}) == 56
    assert len({(style["marker"], style["linestyle"]) for style in styles[:8]}) == 8
