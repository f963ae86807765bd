"""`clipvip analyse study`: the paper's tables and figure in miniature."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipvip.cli.output import echo, echo_json

if TYPE_CHECKING:
    from clipvip.analysis.study.stages import Workplace

NAME = "study"


def command(
    what: Annotated[
        str, typer.Argument(metavar="TABLE", help="table1, table2, table3, table4, figure1, annex; all; or report.")
    ],
    seeds: Annotated[int, typer.Option(min=2, help="Model seeds of each cell (of each of the two data seeds).")] = 3,
    workdir: Annotated[
        Path, typer.Option(help="Folder for worlds and shared stages; all of it can be made again.")
    ] = Path("runs/study"),
    results: Annotated[Path, typer.Option(help="Folder of the cells' figures, one JSON file each.")] = Path("study"),
    page: Annotated[
        Path | None, typer.Option(help="Page whose generated part becomes the report; without it, only printed.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes of one thread each; default: the cores.")
    ] = None,
    search_only: Annotated[
        bool, typer.Option("--search-only", help="Stop after the search on the validation split: read no test split.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Tell what is done, what is to do and how long it takes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan or the report as JSON.")] = False,
) -> None:
    """Run a table of the study, as far as its cells are not there yet, and report on it.

    Choose the learning rates on a validation split, then read the test splits once, as docs/study.md lays down. It may
    be stopped at any time; the same command goes on with the cells that are missing.

    Example: clipvip analyse study table2 --plan
    """
    from clipvip.analysis.study.plan import TABLES
    from clipvip.analysis.study.stages import Workplace
    from clipvip.errors import UsageError

    if what not in (*TABLES, "all", "report"):
        raise UsageError(f"{what}: choose one of {', '.join(TABLES)}, all, report")
    if search_only and (plan or what == "report"):
        raise UsageError("--search-only is for runs: leave it out with --plan and report")
    tables = TABLES if what in ("all", "report") else (what,)
    if plan:
        _tell_plan(tables, seeds, Workplace(workdir), results, workers, as_json)
        return
    if what != "report":
        _run(tables, seeds, Workplace(workdir), results, workers, search_only)
    _report(results, page, as_json)


def _run(
    tables: tuple[str, ...], seeds: int, workplace: Workplace, results: Path, workers: int | None, search_only: bool
) -> None:
    from clipvip.analysis.study.run import run_tables
    from clipvip.cli.progress import progress_bar
    from clipvip.jobs import usable_cpus

    with progress_bar("study", "runs") as progress:
        run_tables(
            tables, workplace, results, num_model_seeds=seeds, workers=workers or usable_cpus(), progress=progress,
            say=partial(echo, err=True), search_only=search_only,
        )  # fmt: skip


def _report(results: Path, page: Path | None, as_json: bool) -> None:
    from clipvip.analysis.study.report import write_report

    report = write_report(results, page)
    echo_json(report["claims"]) if as_json else echo(report["markdown"])


def _tell_plan(
    tables: tuple[str, ...], seeds: int, workplace: Workplace, results: Path, workers: int | None, as_json: bool
) -> None:
    from clipvip.analysis.study.estimate import outlook
    from clipvip.jobs import usable_cpus

    workers = workers or usable_cpus()
    rows: list[dict[str, Any]] = [outlook(table, seeds, workplace, results, workers) for table in tables]
    if as_json:
        echo_json(rows)
        return
    for row in rows:
        echo(
            f"{row['table']}: {row['done']} of {row['cells']} cells done; to do: {row['to_do']} cells and "
            f"{row['stages']} shared runs, about {row['hours']:.1f} h on {workers} cores"
        )
