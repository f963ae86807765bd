"""`python -m study`: the paper's tables and figure in miniature."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clipvip.errors import ClipVipError, UsageError
from clipvip.jobs import usable_cpus
from clipvip.progress import progress_line
from study import plan as planned
from study.estimate import outlook
from study.records import Results
from study.report import write_report
from study.run import run_tables
from study.stages import Workplace

RESULTS = Path(__file__).parent / "results"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    what: Annotated[
        str, typer.Argument(metavar="TABLE", help="table1, table2, table3, table4, figure1, annex; all; or report.")
    ],
    seeds: Annotated[int, typer.Option(min=2, help="Model seeds of each cell (of each of the two data seeds).")] = 3,
    workdir: Annotated[
        Path, typer.Option(help="Folder for worlds and shared stages; all of it can be made again.")
    ] = Path("runs/study"),
    results: Annotated[Path, typer.Option(help="Folder of the finished cells and the figures.")] = RESULTS,
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
        bool, typer.Option("--plan", help="Show what is done, what is to do and how long it takes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan or the report as JSON.")] = False,
) -> None:
    """Run those cells of a table of the study that are missing, and print a report.

    Learning rates are chosen on a validation split, then the test splits are read once, as README.md describes. A run
    may be stopped at any time; the same command continues with the cells that are missing.

    Example: python -m study table2 --plan
    """
    if what not in (*planned.TABLES, "all", "report"):
        raise UsageError(f"{what}: choose one of {', '.join(planned.TABLES)}, all, report")
    if search_only and (plan or what == "report"):
        raise UsageError("--search-only is for runs: leave it out with --plan and report")
    tables = planned.TABLES if what in ("all", "report") else (what,)
    workers, workplace, cells = workers or usable_cpus(), Workplace(workdir), Results(results)
    if plan:
        _print_plan([outlook(table, seeds, workplace, cells, workers) for table in tables], workers, as_json)
        return
    if what != "report":
        with progress_line("runs", transient=True) as bar:
            task = bar.add_task("study", total=None)
            run_tables(
                tables, workplace, cells, num_model_seeds=seeds, workers=workers,
                progress=lambda count, total: bar.update(task, advance=count, total=total),
                log=lambda text: print(text, file=sys.stderr), search_only=search_only,
            )  # fmt: skip
    report = write_report(cells, page)
    print(json.dumps(report["claims"]) if as_json else report["markdown"])


def _print_plan(rows: list[dict[str, Any]], workers: int, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['table']}: {row['done']} of {row['cells']} cells done; to do: {row['to_do']} cells and "
            f"{row['stages']} shared runs, about {row['hours']:.1f} h on {workers} cores"
        )


def main() -> None:
    """Exit codes as `clipvip`'s: 1 failed, 2 wrong usage."""
    try:
        app()
    except ClipVipError as error:
        print(f"study: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)


if __name__ == "__main__":
    main()
