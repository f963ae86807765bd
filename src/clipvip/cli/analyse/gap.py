"""`clipvip analyse gap`: how far apart kinds of text are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clipvip.cli.options import AsJson, DeviceOptions, arg, opt, takes
from clipvip.cli.output import echo, echo_json, make_console
from clipvip.cli.progress import progress_bar
from clipvip.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from clipvip.analysis import Gap

NAME = "gap"


@dataclass(frozen=True, kw_only=True)
class GapOptions(DeviceOptions):
    sources: list[str] = arg(
        ...,
        "SOURCE...",
        "[NAME=]PATH[:FIELD]. PATH: .txt (one text per line), a manifest, or a folder of clipvip encode; FIELD of the "
        "last two: captions, subtitle or caption (default: the one that has texts).",
    )
    against: list[str] | None = opt(
        None,
        "A source that is a column of a table whose rows are the others; once for each column. Without it every "
        "two sources are compared.",
        metavar="SOURCE",
    )
    model: str | None = opt(None, "Whose text encoder: folder or hub id. Not needed if all sources are embedding sets.")
    out: Path | None = opt(None, "Write gap.json, figures (.png, .pdf) and their tables (.csv).", metavar="DIR")
    num_texts: int = opt(1000, "Texts of each source in a draw (the paper's 1,000).", min=4)
    draws: int = opt(10, "Draws that the mean is taken over (the paper's 10).", min=1)
    seed: int = opt(0, "Of draws, k-means and t-SNE: the same seed, the same result.", min=0)
    projection: Literal["pca", "tsne"] | None = opt(None, "How --out shows the texts in the plane (default: pca).")
    as_json: AsJson = False

    def __post_init__(self) -> None:
        if len(self.sources) < 2 and not self.against:
            raise UsageError("analyse gap needs two sources or more, or one and --against another")
        if self.projection is not None and self.out is None:
            raise UsageError(f"--projection {self.projection}: is drawn into --out DIR; give one")


@takes(GapOptions)
def command(options: GapOptions) -> None:
    """Measure the gap between kinds of text, as section 3.2 of the paper does: NMI of source and k-means cluster.

    Texts of two sources are encoded and mixed, and k-means cuts the mixture in two. NMI says how well the cut tells
    the sources apart: 0 not at all, 1 exactly. The interval (95 %) is that of the mean over draws from these texts.
    For comparison each source has the gap between two halves of its own draws: what no gap looks like.

    With --against the result is the paper's Table 1: kinds of pre-training text by downstream set.

    Example: clipvip analyse gap world/pretrain.jsonl:subtitle world/pretrain.jsonl:caption world/retrieval.jsonl
    --model runs/demo/model --out gap
    """

    from clipvip.analysis import measure_gap, open_sources, write_gap
    from clipvip.encode import load

    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)  # not after all the work
    opened = open_sources([*options.sources, *(options.against or ())])
    if options.model is not None and all(source.stored is not None for source in opened):
        raise UsageError("--model has no use: all sources are embedding sets, which know theirs")
    encoder = None if options.model is None else load(options.model, device=options.device, dtype=options.dtype)
    with progress_bar("encoding and clustering", "texts and clusterings") as progress:
        gap = measure_gap(
            opened[: len(options.sources)], encoder, against=opened[len(options.sources) :],
            num_texts=options.num_texts, num_draws=options.draws, seed=options.seed, progress=progress,
        )  # fmt: skip
    stored = next((source.stored for source in opened if source.stored is not None), None)
    name = options.model if options.model is not None else stored.facts[0].model if stored else ""
    report = {"model": name, **gap.to_dict()}
    if options.out is not None:
        write_gap(options.out, gap, report, options.projection or "pca")
    if options.as_json:
        echo_json(report)
        return
    make_console().print(_cross_table(gap) if gap.num_rows else _table(gap))
    if options.out is not None:
        echo(f"figures and tables: {options.out}")


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
