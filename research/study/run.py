"""Runs the cells of a table: shared stages first, each once, then the cells, in one-thread processes over the cores."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from clipvip.jobs import Worker
from study import plan
from study.cells import read_record, read_records, write_record
from study.families import FAMILIES
from study.gap_cells import gap_cells
from study.make import View, World
from study.stages import Stage, Workplace

Progress = Callable[[int, int], None]
"""Told how many tasks more are done, and of how many."""
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
        """Digest of everything its figures hang on."""

    @property
    def labels(self) -> dict[str, Any]:
        """Which entry of which table it is."""

    def file(self, results: Path) -> Path:
        """Where its figures are."""

    def shared(self) -> Iterator[Stage]:
        """What is trained before it, for it and maybe for others."""

    def views(self) -> Iterator[tuple[World, View]]:
        """The manifests it reads."""

    def run(self, workplace: Workplace, results: Path) -> None:
        """Make it, and write its file."""


def run_tables(
    tables: Sequence[str],
    workplace: Workplace,
    results: Path,
    *,
    num_model_seeds: int,
    workers: int,
    progress: Progress,
    say: Callable[[str], None],
    search_only: bool = False,
) -> None:
    """Make what is missing of some tables, one after the other: the search's cells, then those of the test splits with
    what the search chose at the base level, which is what the paper claims. The factors, of all tables, come last.

    search_only: stop before any test split is read. An interrupted call is taken up by the next. say: is told why a
    finished cell is made again.
    """
    run = partial(run_cells, workplace=workplace, results=results, workers=workers, progress=progress, say=say)
    for table in tables:
        run(plan.search_cells(table))
        run(plan.spread_cells(table, plan.choose(table, read_records(results, table))))
        for family in FAMILIES if not search_only else ():
            of_family = [cell for cell in test_cells(table, num_model_seeds, results) if cell.world.family == family]
            run([cell for cell in of_family if cell.level in plan.BASES])
    for table in tables if not search_only else ():
        cells = test_cells(table, num_model_seeds, results)
        for level in dict.fromkeys(cell.level for cell in cells):
            run([cell for cell in cells if cell.level == level])


def test_cells(table: str, num_model_seeds: int, results: Path) -> Sequence[Runnable]:
    """What reads the test splits of a table, with what its search chose."""
    if table == "table1":
        return gap_cells(num_model_seeds)
    chosen = plan.choose(table, read_records(results, table))
    return plan.final_cells(table, chosen, num_model_seeds)


def run_cells(
    cells: Iterable[Runnable],
    workplace: Workplace,
    results: Path,
    *,
    workers: int,
    progress: Progress,
    say: Callable[[str], None],
) -> None:
    """Make the cells that are missing, and before them the worlds and stages that they share.

    Entries of tables that are one and the same run are made once and copied.
    """
    missing = [cell for cell in cells if not is_done(cell, results)]
    stale = sum(cell.file(results).exists() for cell in missing)
    if stale:
        say(f"{results}: {stale} finished cells are of other worlds, recipes or measures than now; made again")
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
    with Crew(workers) as crew:
        for _, stages in sorted(levels.items()):
            crew.do(_run_stage, [(workplace.root, stage) for stage in stages], lambda: progress(1, total))
        crew.do(_run_cell, [(workplace.root, results, cell) for cell in once], lambda: progress(1, total))
    finished = finished_cells(results)
    for cell in missing:
        if not is_done(cell, results):
            write_record(cell.file(results), finished[cell.key] | cell.labels)


def is_done(cell: Runnable, results: Path) -> bool:
    """Whether its figures are there, and are those of just such a cell."""
    file = cell.file(results)
    return file.exists() and read_record(file).get("key") == cell.key


def unmade(missing: Iterable[R], results: Path) -> list[R]:
    """Of the cells that are missing those whose figures no table has, each once."""
    finished = finished_cells(results)
    return list({cell.key: cell for cell in missing if cell.key not in finished}.values())


def finished_cells(results: Path) -> dict[str, dict[str, Any]]:
    """The records of all tables, by their keys."""
    return {record["key"]: record for table in plan.TABLES for record in read_records(results, table)}


def shared_stages(cells: Iterable[Runnable]) -> list[Stage]:
    """Every stage that some cell starts from, once."""
    return list({stage.key: stage for cell in cells for stage in cell.shared()}.values())


class Crew:
    """Worker processes of one thread each. A context manager; leaving it ends them, busy or not."""

    def __init__(self, workers: int):
        for name in _THREADS:  # inherited by the processes, and read by libraries when they are loaded there
            os.environ[name] = "1"
        self._workers = [Worker() for _ in range(workers)]
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.close()

    def do(self, function: Callable[..., None], calls: Sequence[tuple[Any, ...]], done: Callable[[], None]) -> None:
        """All calls, in any order. Raises: what the first that failed raised; those under way are then ended."""
        with ThreadPoolExecutor(len(self._workers)) as threads:
            waiting = [threads.submit(self._call, function, call) for call in calls]
            try:
                for one in as_completed(waiting):
                    one.result()
                    done()
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                self.__exit__()
                raise

    def _call(self, function: Callable[..., None], call: tuple[Any, ...]) -> None:
        worker = self._free.get()
        try:
            worker.call(function, *call, timeout_s=_SILENT_S)
        finally:
            self._free.put(worker)


def _run_stage(root: Path, stage: Stage) -> None:
    _one_thread()
    Workplace(root).run(stage)


def _run_cell(root: Path, results: Path, cell: Runnable) -> None:
    _one_thread()
    cell.run(Workplace(root), results)


def _one_thread() -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
