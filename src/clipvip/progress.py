"""One line that tells a person at a terminal how far something is; silent where stderr is none (notebooks have one)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text


class _Yielding(TextColumn):
    """Text that is cut, and then ends with an ellipsis, before counts and times are."""

    def get_table_column(self) -> Column:
        return Column(no_wrap=False)

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


def progress_line(
    unit: str = "", *, details: str = "", elapsed: bool = False, transient: bool = False, wanted: bool = True
) -> Progress:
    """What is done, a bar, how much of how many, the time left, details: of its tasks, on stderr.

    details: as for `TextColumn`. elapsed: the time that has gone instead of the time left. On a short line the bar
    shrinks first, then details are cut, then the description.
    """
    console = Console(stderr=True)
    whole = Column(no_wrap=True)
    columns: list[ProgressColumn] = [
        _Yielding("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(table_column=whole.copy()),
        *([TextColumn(unit)] if unit else []),
        TimeElapsedColumn(table_column=whole.copy()) if elapsed else TimeRemainingColumn(table_column=whole.copy()),
        *([_Yielding(details)] if details else []),
    ]
    shown = wanted and (console.is_terminal or console.is_jupyter)
    return Progress(*columns, console=console, expand=True, transient=transient, disable=not shown)


@contextmanager
def step_counter(wanted: bool, label: str, total: int) -> Iterator[Callable[..., object]]:
    """A function to be told how many more of `total` are done (one, if nothing is said), and a line if wanted."""
    with progress_line(wanted=wanted) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count=1: bar.advance(task, count)
