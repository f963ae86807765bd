"""How far something is: a line with a bar for a person at a terminal (or in a notebook), a line a minute in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from clipvip.terminal import one_line

LOG_EVERY_S = 60.0
"""Where stderr is no terminal; a run that is shorter writes nothing."""


class _Yielding(TextColumn):
    """Text that is cut, and then ends with an ellipsis, before counts and times are."""

    def get_table_column(self) -> Column:
        return Column(no_wrap=False)

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class _TimeLeft(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left_s = time_left_s(task)
        if left_s is None:
            return Text("-:--:--", style="progress.remaining")
        minutes, seconds = divmod(round(left_s), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}", style="progress.remaining")


class ProgressLine(Progress):
    """rich's `Progress`, which writes plain lines to stderr, one each `LOG_EVERY_S`, where that is no terminal.

    unit, details: what such a line says besides a task's description, its counts and the time left. wanted: False to be
    silent.
    """

    def __init__(
        self, *columns: ProgressColumn, unit: str = "", details: str = "", wanted: bool = True, **options: Any
    ):
        console = Console(stderr=True)
        is_drawn = console.is_terminal or console.is_jupyter
        super().__init__(*columns, console=console, disable=not (wanted and is_drawn), **options)
        self._unit, self._details, self._is_logged = unit, details, wanted and not is_drawn
        self._ended = threading.Event()
        self._logger: threading.Thread | None = None

    def start(self) -> None:
        """As rich; in a log, begin to write."""
        super().start()
        if self._is_logged and self._logger is None:
            self._logger = threading.Thread(target=self._log, name="progress", daemon=True)
            self._logger.start()

    def stop(self) -> None:
        """As rich; in a log, write no more."""
        self._ended.set()
        if self._logger is not None:
            self._logger.join()
        super().stop()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As rich; and note when the first part was done."""
        super().update(task_id, **changes)
        self._note_first(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As rich; and note when the first part was done."""
        super().advance(task_id, advance)
        self._note_first(task_id)

    def _note_first(self, task_id: TaskID) -> None:
        task = self._tasks[task_id]
        if task.completed and "first" not in task.fields:
            task.fields["first"] = time.monotonic(), task.completed

    def _log(self) -> None:
        while not self._ended.wait(LOG_EVERY_S):
            for task in self.tasks:
                if not task.finished:
                    line = one_line(as_text(task, self._unit, self._details))
                    self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def time_left_s(task: Task) -> float | None:
    """Seconds until a task of a `ProgressLine` is done, at the pace since its first part was done.

    What was done at once, by an earlier run, so does not count. None if nobody knows.
    """
    if task.total is None or "first" not in task.fields:
        return None
    first_s, first = task.fields["first"]
    if task.completed <= first:
        return 0.0 if task.completed >= task.total else None
    pace_s = (time.monotonic() - first_s) / (task.completed - first)
    return max(0.0, pace_s * (task.total - task.completed))


def as_text(task: Task, unit: str = "", details: str = "") -> str:
    """One line, such as "indexing: 120 of 4,000 files, 3.20 h of video, 12 h an hour, 45 min left"."""
    total = "" if task.total is None else f" of {task.total:,.0f}"
    parts = [f"{task.description}: {task.completed:,.0f}{total}{f' {unit}' if unit else ''}"]
    if details:
        parts.append(details.format(task=task))
    if (left_s := time_left_s(task)) is not None:
        hours, minutes = divmod(round(left_s / 60), 60)
        parts.append(f"{f'{hours} h {minutes} min' if hours else f'{minutes} min' if minutes else '< 1 min'} left")
    return ", ".join(parts)


def progress_line(unit: str = "", *, details: str = "", transient: bool = False, wanted: bool = True) -> ProgressLine:
    """What is done, a bar, how much of how many, the time left, details: of its tasks, on stderr.

    details: as for `TextColumn`. On a short line the bar shrinks first, then details are cut, then the description.
    """
    whole = Column(no_wrap=True)
    columns: list[ProgressColumn] = [
        _Yielding("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(table_column=whole.copy()),
        *([TextColumn(unit)] if unit else []),
        _TimeLeft(table_column=whole.copy()),
        *([_Yielding(details)] if details else []),
    ]
    return ProgressLine(*columns, unit=unit, details=details, wanted=wanted, expand=True, transient=transient)


@contextmanager
def step_counter(wanted: bool, label: str, total: int) -> Iterator[Callable[..., object]]:
    """A function to call with how many more of `total` are done (one by default), and a line if wanted."""
    with progress_line(wanted=wanted) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count=1: bar.advance(task, count)
