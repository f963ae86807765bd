"""Tables, claims and figures, made from the committed cells; the generated part of README.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipvip.errors import UsageError
from clipvip.files import replace_text
from study import figures, plan
from study.ceilings import ceilings
from study.claims import CLAIMS, Outcome, Records, rows_at, weigh
from study.estimate import all_cells
from study.families import FAMILIES
from study.records import Results
from study.run import is_done
from study.stats import crossed, expected_detectable, hierarchical_interval, values_of

BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
FIGURES = "figures"
_SHOWN = ("R@1", "R@5", "R@10", "MeanR@", "InfoNCE", "A", "M", "O")
_NAMES = {
    "table1": "Table 1, domain gap (NMI)",
    "table2": "Table 2, aggregation",
    "table3": "Table 3, losses",
    "table4": "Table 4, data",
    "figure1": "Figure 1, amount of data",
    "annex": "Annex, no image-text weights",
}


def write_report(results: Results, page: Path | None) -> dict[str, Any]:
    """Draw all figures that have data, next to the cells, and put tables and verdicts into `page` between its marks.

    Returns: {"claims": [...], "markdown": text}. Raises: UsageError if the page lacks the marks.
    """
    records = {table: _current(table, results) for table in plan.TABLES}
    outcomes = [weigh(claim, records[claim.table], family) for claim in CLAIMS for family in FAMILIES]
    drawn = []
    for plot in figures.PLOTS:
        rows = figures.points(plot, records[plot.table])
        if rows:
            (results.folder / FIGURES).mkdir(parents=True, exist_ok=True)
            figures.draw(plot, rows, results.folder / FIGURES)
            drawn.append(plot)
    sections = [_progress(results), _claims_section(outcomes), _ceilings_section()]
    sections += [_table_section(table, records[table]) for table in plan.TABLES if records[table]]
    markdown = "\n\n".join(section for section in sections if section)
    if page is not None:
        _put_between(page, markdown)
    return {
        "claims": [_as_dict(outcome) for outcome in outcomes],
        "figures": [p.name for p in drawn],
        "markdown": markdown,
    }


def _current(table: str, results: Results) -> list[dict[str, Any]]:
    """The cells of a table as the plan has it now: not what is left of other worlds, recipes or measures."""
    records = results.records(table)
    seeds = [record["model_seed"] + 1 for record in records if record["kind"] == "test"]
    keys = {cell.key for cell in all_cells(table, max(seeds, default=plan.NUM_MODEL_SEEDS), results)}
    return [record for record in records if record["key"] in keys]


def _progress(results: Results) -> str:
    """What is missing of the plan, if anything."""
    left = []
    for table in plan.TABLES:
        cells = all_cells(table, plan.NUM_MODEL_SEEDS, results)
        missing = sum(not is_done(cell, results) for cell in cells)
        if missing:
            left.append(f"{missing} of {len(cells)} of {_NAMES[table].partition(',')[0]}")
    notice = f"**Not complete**: these cells are not yet run: {'; '.join(left)}."
    return f"{notice} `python -m study all` continues." if left else ""


def _claims_section(outcomes: Iterable[Outcome]) -> str:
    pairs: dict[Any, dict[str, Outcome]] = {}
    for outcome in outcomes:
        pairs.setdefault(outcome.claim, {})[outcome.family] = outcome
    rows = []
    for claim, of in pairs.items():
        says = f"*{claim.says}*" if claim.ours else claim.says
        where = "" if claim.level == "base" else f" ({claim.level})"
        planned = [family for family in FAMILIES if family == "A" or claim.level in plan.BASES]
        cells = [_format_outcome(of[family]) if family in planned else "not planned" for family in FAMILIES]
        rows.append([_NAMES[claim.table].partition(",")[0], says + where, f"{claim.figure}, {claim.margin:g}", *cells])
    head = ["of", "claim", "figure, margin", *(f"family {name}" for name in FAMILIES)]
    return (
        "### Claims\n\nDifference with its 95 % interval (of NMI: hundredths); questions of our own in italics.\n\n"
        + _table(head, rows)
    )


def _format_outcome(outcome: Outcome) -> str:
    return f"{outcome.difference or ''} {outcome.verdict}".strip()


def _ceilings_section() -> str:
    head = ["asked", "observer", "R@1", "R@5", "R@10", "MeanR@", "A", "M", "O"]
    rows = []
    for asked in ("M", "AO", "AMO"):
        for observer, of in ceilings(FAMILIES["A"], asked).items():
            rows.append([asked, observer, *(f"{of[key]:.1f}" if key in of else "" for key in head[2:])])
    return "### Ceilings\n\nWhat observers without error reach, by construction (percent).\n\n" + _table(head, rows)


def _table_section(table: str, records: Records) -> str:
    tests = [record for record in records if record["kind"] == "test"]
    heading = f"### {_NAMES[table]}\n\n{len(tests)} test cells, {len(records) - len(tests)} of the validation split."
    parts = [heading]
    if table == "table1":
        parts.append(_gap_table(tests))
        return "\n\n".join(parts)
    parts.append(_search_table(table, records))
    levels = dict.fromkeys(record["level"] for record in sorted(tests, key=lambda record: record["level"] != "base"))
    for family in FAMILIES:
        rows = []
        for level in levels:
            here = [record for record in tests if record["family"] == family]
            for row in dict.fromkeys(r["row"] for r in here if r["level"] == level):
                cells = rows_at(here, row, level)
                if crossed(cells):
                    rows.append([level, row, str(len(cells)), *(_with_reach(cells, figure) for figure in _SHOWN)])
        if rows:
            parts.append(
                f"Family {family}, mean ± half of the 95 % interval:\n\n"
                + _table(["level", "row", "cells", *_SHOWN], rows)
            )
    parts += [
        f"![{plot.name}](results/{FIGURES}/{plot.name}.png)"
        for plot in figures.PLOTS
        if plot.table == table and figures.points(plot, records)
    ]
    return "\n\n".join(part for part in parts if part)


def _search_table(table: str, records: Records) -> str:
    """What the search chose, and what that reached on the validation split."""
    if sum(record["kind"] == "search" for record in records) < len(plan.search_points(table)):
        return "The search is not complete."
    shown = [figure for figure in _SHOWN if figure not in ("InfoNCE", "M")]  # M is not asked for at the base
    rows = []
    for row, settings in plan.choose(table, records).items():
        level = next(level for (r, level), point in plan.search_points(table).items() if (r, point) == (row, settings))
        cells = rows_at(records, row, level)
        means = [f"{sum(cell['figures'][figure] for cell in cells) / len(cells):.1f}" for figure in shown]
        rows.append([row, level.removeprefix("try "), *means])
    title = "Chosen by the search, with the means over its cells (validation split):"
    figure = "R@1" if table == "table2" else "MeanR@"
    least = expected_detectable(records, figure, len(plan.DATA_SEEDS) * plan.NUM_MODEL_SEEDS)
    detects = (
        "" if least is None else f"\n\nLeast detectable difference expected from these cells: {figure} {least:.1f}."
    )
    return f"{title}\n\n{_table(['row', 'chosen', *shown], rows)}{detects}" if rows else ""


def _gap_table(tests: Records) -> str:
    rows = []
    for family in FAMILIES:
        here = [record for record in tests if record["family"] == family]
        if crossed(here):
            for pair in here[0]["figures"]:
                found = hierarchical_interval(values_of(here, pair) / 100)
                rows.append(
                    [family, pair.replace(" | ", ", "), f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"]
                )
    return _table(["family", "sources", "NMI"], rows)


def _with_reach(cells: Records, figure: str) -> str:
    if figure in ("A", "M", "O") and figure not in cells[0]["pairs"]:
        return ""
    found = hierarchical_interval(values_of(cells, figure))
    digits = 2 if figure == "InfoNCE" else 1
    return f"{found.mean:.{digits}f} ± {(found.high - found.low) / 2:.{digits}f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    claim, found = outcome.claim, outcome.difference
    fields: dict[str, Any] = {
        "table": claim.table, "claim": claim.says, "better": claim.better, "worse": claim.worse, "level": claim.level,
        "figure": claim.figure, "margin": claim.margin, "family": outcome.family, "verdict": outcome.verdict,
    }  # fmt: skip
    if found is not None:
        fields |= {"difference": found.mean, "low": found.low, "high": found.high, "detectable": found.detectable}
    if outcome.infonce is not None:
        fields["infonce"] = [outcome.infonce.mean, outcome.infonce.low, outcome.infonce.high]
    return fields


def _put_between(page: Path, markdown: str) -> None:
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"{page}: lacks the lines {BEGIN} and {END} between which the report goes")
    replace_text(page, f"{head}{BEGIN}\n\n{markdown}\n\n{END}{tail}")
