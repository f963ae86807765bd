"""One figure a question: a figure of merit against a factor, a line a row, bands of 95 %."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipvip.analysis import HALF_IN, drawing, look
from study import plan
from study.claims import Records, rows_at
from study.stats import crossed, hierarchical_interval, values_of


@dataclass(frozen=True, slots=True)
class Plot:
    """`figure` against levels (label -> level), one line for each of the rows. across: what the levels are."""

    name: str
    table: str
    across: str
    levels: Mapping[str, str]
    rows: tuple[str, ...]
    figure: str = "MeanR@"
    family: str = "A"


_AGGREGATORS = plan.LATE_AND_PROXIES
_SETS = {"sentences": "base", "paragraphs": "paragraphs"}
_ASKED = {"M": "asked M", "A, O": "base", "A, M, O": "asked AMO"}
_OBJECTS = {str(count): f"objects {count}" for count in plan.CROWDS}
_WARM = {"0": "warm 0", str(plan.WARM_STEPS): "base"}
_BUDGET = {"200": "base", str(plan.LONG_STEPS): "long"}
_RELEVANCE = {"0.1": "relevance 0.1", "0.4": "base", "0.8": "relevance 0.8"}
_START = {f"{start} x{factor}": f"start {start} x{factor}" for start, factor in plan.STARTS_OF_NEW}
_STEPS = {str(step): f"step {step}" for step in plan.SNAPSHOTS}
PLOTS: tuple[Plot, ...] = (
    Plot("table2-aggregators", "table2", "downstream set", {"sentences": "base"}, tuple(plan.AGGREGATORS), "R@1"),
    Plot("table2-asked", "table2", "attributes asked for", _ASKED, ("vip4", "transformer", "full"), "R@1"),
    Plot("table2-budget", "table2", "steps of fine-tuning", _BUDGET, _AGGREGATORS, "R@1"),
    Plot("table2-warm", "table2", "steps of the image warm start", _WARM, _AGGREGATORS, "R@1"),
    Plot("table2-objects", "table2", "objects that move", _OBJECTS, ("full", "vip1", "vip4"), "R@1"),
    Plot("table2-start", "table2", "start of proxies, rate factor of new parameters", _START, ("vip4",), "R@1"),
    Plot("table3-losses", "table3", "downstream set", _SETS, ("none", *plan.LOSSES)),
    Plot("table3-relevance", "table3", "share of relevant subtitles", _RELEVANCE, ("vs",)),
    Plot("table4-data", "table4", "downstream set", _SETS, ("none", *plan.DATA_ROWS)),
    Plot("figure1", "figure1", "steps of post-pre-training", _STEPS, ("none", *plan.SETS)),
    Plot("annex", "annex", "downstream set", {"sentences": "base"}, plan.STARTS),
)  # fmt: skip


def points(plot: Plot, records: Records) -> list[dict[str, Any]]:
    """The numbers of a figure: one row for each line and level that is complete."""
    here = [r for r in records if r["family"] == plot.family and r["kind"] == "test"]
    rows: list[dict[str, Any]] = []
    for row in plot.rows:
        for label, level in plot.levels.items():
            cells = rows_at(here, row, level)
            if crossed(cells):
                found = hierarchical_interval(values_of(cells, plot.figure))
                point = {"row": row, plot.across: label, plot.figure: found.mean, "low": found.low, "high": found.high}
                rows.append({**point, "seeds": found.num_seeds})
    return rows


def draw(plot: Plot, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Save a figure as FOLDER/NAME.png, .pdf and .csv."""
    labels = list(plot.levels)
    with drawing(folder / plot.name, rows, width=HALF_IN * 1.3, height=2.6) as figure:
        axes = figure.add_subplot()
        names = [name for name in plot.rows if any(row["row"] == name for row in rows)]
        for number, name in enumerate(names):
            mine = [row for row in rows if row["row"] == name]
            shift = 0.12 * (number - (len(names) - 1) / 2) if len(labels) < 3 else 0.0
            x = [labels.index(row[plot.across]) + shift for row in mine]
            y = [row[plot.figure] for row in mine]
            style = look(number) | ({"linestyle": ""} if len(labels) < 3 else {})
            if len(labels) < 3:
                reach = [
                    [row[plot.figure] - row["low"] for row in mine],
                    [row["high"] - row[plot.figure] for row in mine],
                ]
                axes.errorbar(x, y, reach, capsize=2, label=name, **style)
            else:
                axes.plot(x, y, label=name, **style)
                axes.fill_between(
                    x, [r["low"] for r in mine], [r["high"] for r in mine], color=style["color"], alpha=0.15, lw=0
                )
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.6, len(labels) - 0.4)
        axes.set_xlabel(plot.across)
        axes.set_ylabel(f"test {plot.figure} (t2v)" if plot.figure not in "MO" else f"pairs of {plot.figure} (%)")
        axes.grid(axis="y")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
