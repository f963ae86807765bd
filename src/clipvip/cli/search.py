"""`clipvip search`: find the moments of an index that a text describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipvip.cli.options import Device, Dtype

if TYPE_CHECKING:
    from rich.table import Table

    from clipvip.search import Results

NAME = "search"


def command(
    query: Annotated[str, typer.Argument(help="What to look for, in words.")],
    index: Annotated[str, typer.Option(metavar="URI", help="An index made by `clipvip index`.")],
    top: Annotated[int, typer.Option("-k", "--top", min=1, help="Number of answers.")] = 10,
    merge: Annotated[
        bool, typer.Option("--merge/--no-merge", help="Near-by windows that answer equally well are one answer.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    model: Annotated[str | None, typer.Option(help="Where the model of the index is now, if it has moved.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Find the moments that a text describes, best first.

    Example: clipvip search "a dog catches a frisbee" --index my-index -k 5
    """
    from clipvip.errors import UsageError

    if not query.strip():
        raise UsageError("the query is empty: say what to look for")

    import json
    from dataclasses import asdict

    from rich.console import Console

    from clipvip.search import Library

    library = Library(index, model, device=device, dtype=dtype)
    results = library.search(query, top, merge=merge)
    if as_json:
        rows = [asdict(hit) | {"video": str(hit.video)} for hit in results]
        typer.echo(json.dumps({"query": query, "model": model or library.settings.model, "results": rows}))
    else:
        Console().print(hits_table(query, results))


def hits_table(query: str, hits: Results) -> Table:
    """The answers as people read them."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(query))
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("file", overflow="fold")
    table.add_column("time", no_wrap=True)
    for hit in hits:
        span = f"{clock(hit.start_s)}-{clock(hit.end_s)}"
        table.add_row(str(hit.rank), f"{hit.score:.3f}", Text(str(hit.video)), span)
    return table


def clock(seconds: float) -> str:
    """Minutes and seconds, as players show them: 75 -> "1:15"."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
