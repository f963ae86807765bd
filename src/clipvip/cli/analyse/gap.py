"""`clipvip analyse gap`: how far apart kinds of text are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clipvip.cli.options import Device, Dtype
from clipvip.cli.output import echo, echo_json, make_console
from clipvip.cli.progress import progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from clipvip.analysis import Gap

NAME = "gap"


def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="[NAME=]PATH[:FIELD]. PATH: .txt (a text a line), a manifest, or a folder of clipvip encode; FIELD of "
            "the last two: captions, subtitle or caption (default: the one that has texts).",
        ),
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="A source that is a column of a table whose rows are the others; once for each column. Without it "
            "every two sources are compared.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Whose text encoder: folder or hub id. Not needed if all sources are embedding sets."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write gap.json, figures (.png, .pdf) and their tables (.csv).")
    ] = None,
    num_texts: Annotated[int, typer.Option(min=4, help="Texts of each source in a draw (the paper's 1,000).")] = 1000,
    draws: Annotated[int, typer.Option(min=1, help="Draws that the mean is taken over (the paper's 10).")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of draws, k-means and t-SNE: the same seed, the same result.")] = 0,
    projection: Annotated[
        Literal["pca", "tsne"] | None, typer.Option(help="How --out shows the texts in the plane (default: pca).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Measure the gap between kinds of text, as section 3.2 of the paper does: NMI of source and k-means cluster.

    Texts of two sources are encoded and mixed, and k-means cuts the mixture in two. NMI says how well the cut tells
    the sources apart: 0 not at all, 1 exactly. The interval (95 %) is that of the mean over draws from these texts.
    Beside each source stands the gap between two halves of its own draws: what no gap looks like.

    With --against the result is the paper's Table 1: kinds of pre-training text by downstream set.

    Example: clipvip analyse gap world/pretrain.jsonl:subtitle world/pretrain.jsonl:caption world/retrieval.jsonl
    --model runs/demo/model --out gap
    """

    from clipvip.analysis import measure_gap, open_sources, write_gap
    from clipvip.encode import load
    from clipvip.errors import UsageError

    if len(sources) < 2 and not against:
        raise UsageError("analyse gap needs two sources or more, or one and --against another")
    if projection is not None and out is None:
        raise UsageError(f"--projection {projection}: is drawn into --out DIR; give one")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # not after all the work
    opened = open_sources([*sources, *(against or ())])
    if model is not None and all(source.stored is not None for source in opened):
        raise UsageError("--model has no use: all sources are embedding sets, which know theirs")
    encoder = None if model is None else load(model, device=device, dtype=dtype)
    with progress_bar("encoding and clustering", "texts and clusterings") as progress:
        gap = measure_gap(
            opened[: len(sources)], encoder, against=opened[len(sources) :],
            num_texts=num_texts, num_draws=draws, seed=seed, progress=progress,
        )  # fmt: skip
    stored = next((source.stored for source in opened if source.stored is not None), None)
    name = model if model is not None else stored.facts[0].model if stored else ""
    report = {"model": name, **gap.to_dict()}
    if out is not None:
        write_gap(out, gap, report, projection or "pca")
    if as_json:
        echo_json(report)
        return
    make_console().print(_cross_table(gap) if gap.num_rows else _table(gap))
    if out is not None:
        echo(f"figures and tables: {out}")


def _cross_table(gap: Gap) -> Table:
    """Rows by columns, and what no gap looks like for each row."""
    from rich.markup import escape
    from rich.table import Table

    nmi = {(pair.a, pair.b): pair.nmi for pair in gap.pairs}
    table = Table(title=f"NMI of source and cluster, {gap.num_texts:,} texts of each, {len(gap.pairs[0].draws)} draws")
    table.add_column("")
    for column in (*gap.columns, "itself, halved"):
        table.add_column(escape(column), justify="right")
    for row in gap.rows:
        table.add_row(escape(row), *(f"{nmi[row, column]:.3f}" for column in (*gap.columns, row)))
    return table


def _table(gap: Gap) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"NMI of source and cluster, {gap.num_texts:,} texts of each, {len(gap.pairs[0].draws)} draws")
    for title in ("source", "and", "NMI", "95 % of the mean"):
        table.add_column(title, justify="left" if title in ("source", "and") else "right")
    for pair in gap.pairs:
        other = "itself, halved" if pair.a == pair.b else escape(pair.b)
        interval = "" if pair.interval is None else "{:.3f} to {:.3f}".format(*pair.interval)
        table.add_row(escape(pair.a), other, f"{pair.nmi:.3f}", interval)
    return table
