"""How far verbs are, on stderr (see `clipvip.progress`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def counting(label: str, unit: str = "clips") -> Iterator[Callable[[Iterable[T]], Iterable[T]]]:
    """Gives a function that passes things on and counts them on stderr."""
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    from clipvip.progress import ProgressLine

    columns = (SpinnerColumn(), TextColumn(f"{label}: {{task.completed:,.0f}} {unit}"), TimeElapsedColumn())
    with ProgressLine(*columns, unit=unit, transient=True) as bar:
        task = bar.add_task(label, total=None)

        def watch(things: Iterable[T]) -> Iterable[T]:
            for done, thing in enumerate(things, 1):
                if done % 500 == 0:
                    bar.update(task, completed=done)
                yield thing

        yield watch


@contextmanager
def progress_bar(label: str, unit: str = "clips") -> Iterator[Callable[[int, int], None]]:
    """Gives a function that is told how many more are done, and of how many; from any thread."""
    from clipvip.progress import progress_line

    with progress_line(unit, transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda count, total: bar.update(task, advance=count, total=total)
