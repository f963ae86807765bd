"""The line of progress, at the widths of terminals, and in logs."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console

import clipvip
from clipvip.cli.progress import counting, progress_bar
from clipvip.progress import as_text, progress_line, step_counter
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
def test_counts_and_time_survive(width: int, label: str) -> None:
    """Catches `123… -:--:…` on a terminal of 80 columns: the label, the bar or details took the counts' place."""
    line = shown(width, label, "videos")
    assert line.count("\n") == 1
    assert len(line) <= width + 1
    assert line.endswith("1234567/9876543 videos -:--:--\n")
    assert line.startswith(label[:10])
    line = shown(width, label, details="{task.fields[told]}")
    assert line.count("\n") == 1
    assert len(line) <= width + 1
    assert " 1234567/9876543 -:--:-- loss 1.2" in line


def test_a_file_gets_no_progress(tmp_path: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches bars, or the empty lines of theirs, in the logs of batch jobs."""
    encoder = clipvip.load(write_model(tmp_path), device="cpu")
    encoder.encode_texts(TEXTS, progress=True)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of progress, to be set."""
    now = [0.0]
    monkeypatch.setattr("clipvip.progress.time.monotonic", lambda: now[0])
    return now


def test_the_time_left_is_that_of_what_is_left(clock: list[float]) -> None:
    """Catches files that were indexed before, all done at once, that promise an end in a second."""
    bar = progress_line("files", details="{task.fields[hours]:.2f} h of video")
    task = bar.add_task("indexing", total=None, hours=0.0)
    assert as_text(bar.tasks[0], "files") == "indexing: 0 files"
    clock[0] = 60.0
    bar.update(task, completed=3000, total=4000)
    assert as_text(bar.tasks[0], "files") == "indexing: 3,000 of 4,000 files"
    clock[0] = 660.0
    bar.update(task, completed=3100, hours=3.2)
    line = "indexing: 3,100 of 4,000 files, 3.20 h of video, 1 h 30 min left"
    assert as_text(bar.tasks[0], "files", "{task.fields[hours]:.2f} h of video") == line
    console = Console(width=120, force_terminal=True, color_system=None, file=io.StringIO())
    console.print(bar.get_renderable())
    assert " 1:30:00 3.20 h of video" in console.file.getvalue()  # type: ignore[attr-defined]
    bar.advance(task, 899)
    assert as_text(bar.tasks[0], "files").endswith("3,999 of 4,000 files, < 1 min left")


@pytest.mark.parametrize("kind", ["progress_line", "counting", "progress_bar", "step_counter"])
def test_a_log_gets_a_line_now_and_then(kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Catches hours of a batch job without a sign of life, and bars in its log."""
    monkeypatch.setattr("clipvip.progress.LOG_EVERY_S", 0.05)
    if kind == "progress_line":
        with progress_line("files") as bar:
            bar.update(bar.add_task("work\x1b[31m", total=9), completed=3)
            time.sleep(0.3)
    elif kind == "counting":
        with counting("work\x1b[31m", "files") as watch:
            for number in watch(range(501)):
                time.sleep(0.3 if number == 500 else 0)
    elif kind == "progress_bar":
        with progress_bar("work\x1b[31m", "files") as progress:
            progress(3, 9)
            time.sleep(0.3)
    else:
        with step_counter(False, "silent", 9), step_counter(True, "work\x1b[31m", 9) as told:
            told(3)
            time.sleep(0.3)
    out, err = capsys.readouterr()
    time.sleep(0.1)
    done = {"counting": "500 files", "step_counter": "3 of 9"}.get(kind, "3 of 9 files")
    lines = err.splitlines()
    assert out == ""
    assert set(lines) == {f"work\\x1b[31m: {done}"}
    assert 2 <= len(lines) <= 6
    assert capsys.readouterr() == ("", "")
