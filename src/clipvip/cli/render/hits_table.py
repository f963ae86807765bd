"""What `clipvip search` prints: a table of the results, or why there are none, or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipvip.cli.output import make_console
from clipvip.terminal import one_line, printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement

    from clipvip.search import Query, Results

UNLIMITED = 100_000
"""Cells: wider than any table."""


def print_hits(query: str, hits: Results) -> None:
    """One line per result. Paths lose their middle where a terminal is too narrow, and nothing anywhere else."""
    from rich.table import Table
    from rich.text import Text

    console = make_console()
    if not console.is_terminal:
        console.width = UNLIMITED
    table = Table(title=Text(printable(query)))
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("file")
    table.add_column("time", no_wrap=True)
    tenths = any(hit.end_s - hit.start_s < 1 - 1e-6 for hit in hits)
    for hit in hits:
        span = f"{clock(hit.start_s, tenths=tenths)}-{clock(hit.end_s, tenths=tenths)}"
        table.add_row(str(hit.rank), f"{hit.score:.3f}", _Path(one_line(str(hit.video))), span)
    console.print(table)


def hits_json(query: str, model: str, results: Results) -> dict[str, Any]:
    """The answer of `clipvip search --json`; no results where nothing was found."""
    from dataclasses import asdict

    rows = [asdict(hit) | {"video": str(hit.video)} for hit in results] if results.found else []
    report = {"query": query, "model": model, "found": results.found and bool(rows), "results": rows}
    return report if results.p_value is None else report | {"p_value": results.p_value}


def nothing_found(results: Results, query: Query) -> str:
    """Why there is no result."""
    from clipvip.search import Filters

    if not results.found and len(results):
        return (
            f"nothing found (p = {results.p_value:.3f}: that often, something that is not there has an answer this "
            "good); without --false-alarm the nearest are shown"
        )
    filtered = query.filters != Filters()
    if query.offset:
        beyond = f"nothing found: there is no answer beyond the first {query.offset}"
        return beyond + (" that passes the filters" if filtered else "")
    return "nothing found: " + ("no segment passes the filters" if filtered else "the index is empty")


def clock(seconds: float, *, tenths: bool = False) -> str:
    """Minutes and seconds, as players show them: 75 -> "1:15", or "1:15.0"."""
    if tenths:
        minutes, rest = divmod(round(10 * seconds), 600)
        return f"{minutes}:{rest // 10:02d}.{rest % 10}"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def shortened(text: str, width: int) -> str:
    """`text` in at most `width` cells of a terminal; cut in its middle, as its end says more than its beginning."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    head = (width - 1) // 3
    return f"{set_cell_size(text, head)}…{set_cell_size(text[::-1], width - 1 - head)[::-1]}"


class _Path:
    """In as many cells as its column gets."""

    def __init__(self, text: str):
        self.text = text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.cells import cell_len
        from rich.measure import Measurement

        return Measurement(1, cell_len(self.text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(shortened(self.text, options.max_width), no_wrap=True)
