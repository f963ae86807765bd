"""The line of progress, at the widths of terminals."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

import clipvip
from clipvip.progress import progress_line
from helpers_model import TEXTS, write_model


def shown(width: int, label: str, unit: str = "", **options: Any) -> str:
    """The line of a task that is at 1,234,567 of 9,876,543."""
    bar = progress_line(unit, **options)
    bar.add_task(label, total=9_876_543, completed=1_234_567, told="loss 1.234  lr 1.0e-05  123 clips/s  12% waiting")
    console = Console(width=width, force_terminal=True, color_system=None, file=io.StringIO())
    console.print(bar.get_renderable())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("label", ["checking", "encoding and clustering", "a-folder-with-a-very-long-name-for-a-run"])
@pytest.mark.parametrize("elapsed", [False, True])
def test_counts_and_time_survive(width: int, label: str, elapsed: bool) -> None:
    """Catches `123… -:--:…` on a terminal of 80 columns: the label, the bar or details took the counts' place."""
    clock = "0:00:00" if elapsed else "-:--:--"
    line = shown(width, label, "videos", elapsed=elapsed)
    assert line.count("\n") == 1
    assert len(line) <= width + 1
    assert line.endswith(f"1234567/9876543 videos {clock}\n")
    assert line.startswith(label[:10])
    line = shown(width, label, elapsed=elapsed, details="{task.fields[told]}")
    assert line.count("\n") == 1
    assert len(line) <= width + 1
    assert f" 1234567/9876543 {clock} loss 1.2" in line


def test_a_file_gets_no_progress(tmp_path: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches bars, or the empty lines of theirs, in the logs of batch jobs."""
    encoder = clipvip.load(write_model(tmp_path), device="cpu")
    encoder.encode_texts(TEXTS, progress=True)
    assert capfd.readouterr() == ("", "")
