"""Runs the cells of a table: shared stages first, each once, then the cells, in one-thread processes over the cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from clipvip.jobs import Pool, Worker
from study import plan
from study.families import FAMILIES
from study.gap_cells import gap_cells
from study.records import Record, Results
from study.stages import Stage, Workplace
from study.views import View, World

Progress = Callable[[int, int], None]
"""Called with how many more tasks are done, and of how many."""
_SILENT_S = 6 * 3600.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


R = TypeVar("R", bound="Runnable")


class Runnable(Protocol):
    """A cell of whatever kind."""

    @property
    def world(self) -> World:
        """Where its clips are from."""

    @property
    def level(self) -> str:
        """Of which factor."""

    @property
    def key(self) -> str:
        """Digest of everything its figures depend on."""

    @property
    def labels(self) -> dict[str, Any]:
        """Which entry of which table it is."""

    def shared(self) -> Iterator[Stage]:
        """What is trained before it, for it and maybe for others."""

    def views(self) -> Iterator[tuple[World, View]]:
        """The manifests it reads."""

    def run(self, workplace: Workplace) -> Record:
        """Train and measure."""


def run_tables(
    tables: Sequence[str],
    workplace: Workplace,
    results: Results,
    *,
    num_model_seeds: int,
    workers: int,
    progress: Progress,
    log: Callable[[str], None],
    search_only: bool = False,
) -> None:
    """Make what is missing of some tables, one after the other: the search's cells, then those of the test splits with
    what the search chose at the base level, which is what the paper claims. The factors, of all tables, come last.

    search_only: stop before any test split is read. An interrupted call is resumed by the next. log: gets
    the reason why a finished cell is made again.
    """
    run = partial(run_cells, workplace=workplace, results=results, workers=workers, progress=progress, log=log)
    for table in tables:
        run(plan.search_cells(table))
        run(plan.spread_cells(table, plan.choose(table, results.records(table))))
        for family in FAMILIES if not search_only else ():
            of_family = [cell for cell in test_cells(table, num_model_seeds, results) if cell.world.family == family]
            run([cell for cell in of_family if cell.level in plan.BASES])
    for table in tables if not search_only else ():
        cells = test_cells(table, num_model_seeds, results)
        for level in dict.fromkeys(cell.level for cell in cells):
            run([cell for cell in cells if cell.level == level])


def test_cells(table: str, num_model_seeds: int, results: Results) -> Sequence[Runnable]:
    """What reads the test splits of a table, with what its search chose."""
    if table == "table1":
        return gap_cells(num_model_seeds)
    chosen = plan.choose(table, results.records(table))
    return plan.final_cells(table, chosen, num_model_seeds)


def run_cells(
    cells: Iterable[Runnable],
    workplace: Workplace,
    results: Results,
    *,
    workers: int,
    progress: Progress,
    log: Callable[[str], None],
) -> None:
    """Make the cells that are missing, and before them the worlds and stages that they share.

    Entries of tables that are one and the same run are made once and copied.
    """
    missing = [cell for cell in cells if not is_done(cell, results)]
    stale = sum(results.find(cell.labels) is not None for cell in missing)
    if stale:
        log(f"{results.folder}: {stale} finished cells are of other worlds, recipes or measures than now; made again")
    once = unmade(missing, results)
    for world in dict.fromkeys(cell.world for cell in once):
        workplace.make(world, workers)
    levels: dict[int, list[Stage]] = {}
    for stage in shared_stages(once):
        if not workplace.is_done(stage):
            levels.setdefault(sum(1 for _ in stage.chain()), []).append(stage)
    total = sum(map(len, levels.values())) + len(once)
    for cell in once:  # here, so that no two processes write one
        for world, view in cell.views():
            workplace.manifest(world, view)
    for name in _THREADS:  # inherited by the processes, and read by libraries when they are loaded there
        os.environ[name] = "1"
    with Pool([Worker() for _ in range(workers)]) as pool:
        for _, stages in sorted(levels.items()):
            for _ in pool.map(partial(_run_stage, workplace.root), stages, timeout_s=_SILENT_S, ordered=False):
                progress(1, total)
        for record in pool.map(partial(_run_cell, workplace.root), once, timeout_s=_SILENT_S, ordered=False):
            results.write(record)
            progress(1, total)
    finished = finished_cells(results)
    for cell in missing:
        if not is_done(cell, results):
            results.write(finished[cell.key] | cell.labels)


def is_done(cell: Runnable, results: Results) -> bool:
    """Whether its figures are there, and are those of just such a cell."""
    record = results.find(cell.labels)
    return record is not None and record.get("key") == cell.key


def unmade(missing: Iterable[R], results: Results) -> list[R]:
    """Of the cells that are missing those whose figures no table has, each once."""
    finished = finished_cells(results)
    return list({cell.key: cell for cell in missing if cell.key not in finished}.values())


def finished_cells(results: Results) -> dict[str, dict[str, Any]]:
    """The records of all tables, by their keys."""
    return {record["key"]: record for table in plan.TABLES for record in results.records(table)}


def shared_stages(cells: Iterable[Runnable]) -> list[Stage]:
    """Every stage that some cell starts from, once."""
    return list({stage.key: stage for cell in cells for stage in cell.shared()}.values())


def _run_stage(root: Path, stage: Stage) -> None:
    _one_thread()
    Workplace(root).run(stage)


def _run_cell(root: Path, cell: Runnable) -> Record:
    _one_thread()
    return cell.run(Workplace(root))


def _one_thread() -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
