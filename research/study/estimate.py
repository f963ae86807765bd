"""What is left to do of a table, and about how long that takes."""

from __future__ import annotations

from typing import Any

from study import plan
from study.cells import Cell
from study.gap_cells import GapCell, gap_cells
from study.records import Results
from study.run import is_done, shared_stages, unmade
from study.stages import Stage, Workplace

SECONDS_A_STEP = {"study/warmstart": 0.035, "study/pretrain": 0.03, "study/finetune": 0.02}
"""Processor time, by the recipe's name up to a hyphen."""
_SECONDS_A_RUN, _SECONDS_A_WORLD = 1.5, 30.0


def outlook(table: str, num_model_seeds: int, workplace: Workplace, results: Results, workers: int) -> dict[str, Any]:
    """Counts of cells done and to do, and hours. Before the search is done its choices are taken to be any."""
    cells = all_cells(table, num_model_seeds, results)
    missing = [cell for cell in cells if not is_done(cell, results)]
    once = unmade(missing, results)
    stages = [stage for stage in shared_stages(once) if not workplace.is_done(stage)]
    own = [cell.stage for cell in once if isinstance(cell, Cell)]  # a cell of table1 trains nothing itself
    worlds = [w for w in {cell.world for cell in once} if not (workplace.world(w) / "world.json").exists()]
    seconds = sum(map(_seconds, [*stages, *own])) + _SECONDS_A_WORLD * len(worlds)
    return {
        "table": table, "cells": len(cells), "done": len(cells) - len(missing), "to_do": len(missing),
        "stages": len(stages), "hours": round(seconds / workers / 3600, 2),
    }  # fmt: skip


def all_cells(table: str, num_model_seeds: int, results: Results) -> list[Cell | GapCell]:
    """Every cell of a table."""
    if table == "table1":
        return [*gap_cells(num_model_seeds)]
    chosen = {row: settings for (row, _), settings in plan.search_points(table).items()}
    chosen |= plan.choose(table, results.records(table))
    return [
        *plan.search_cells(table),
        *plan.spread_cells(table, chosen),
        *plan.final_cells(table, chosen, num_model_seeds),
    ]


def _seconds(stage: Stage) -> float:
    return _SECONDS_A_RUN + stage.num_steps * SECONDS_A_STEP[stage.recipe.partition("-")[0]]
