"""What the study runs: fair searches, unread test splits, shared stages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from clipvip.training import load_recipe
from study import plan
from study.cells import Cell
from study.records import name_of
from study.stages import Stage, Workplace, recipe_of
from study.views import View, World

TABLES = plan.TABLES[1:]


def any_choice(table: str) -> dict[str, plan.Settings]:
    return {row: settings for (row, _), settings in plan.search_points(table).items()}


@pytest.mark.parametrize("table", TABLES)
def test_every_row_gets_the_same_search_and_no_search_reads_a_test_split(table: str) -> None:
    """Catches a method with more tries than the others, and choices made on what is to be reported."""
    search, final = plan.search_cells(table), plan.final_cells(table, any_choice(table), 3)
    tries = Counter(cell.row for cell in search)
    if table == "table2":
        assert tries.pop("mean") == len(plan.RATES), "it has no new parameters"
    assert len(set(tries.values())) == 1
    assert {(cell.split, cell.world.family, cell.world.seed) for cell in search} == {("val", "A", plan.TUNING_SEED)}
    assert plan.TUNING_SEED not in plan.DATA_SEEDS
    assert plan.TUNING_WORLD.size.test == 0
    assert {cell.split for cell in final} == {"test"}
    assert {cell.row for cell in final} - {"none"} == set(tries) | ({"mean"} if table == "table2" else set())
    names = [name_of(cell.labels) for cell in [*search, *final]]
    assert len(names) == len(set(names))
    seeds = Counter((c.world.family, c.row, c.level) for c in final)
    assert set(seeds.values()) == {6}


@pytest.mark.parametrize("table", TABLES)
def test_rows_of_a_table_have_one_budget(table: str) -> None:
    """Catches a row that is trained longer, or on more clips, than what it is compared with at the same level."""
    budgets: dict[tuple[str, str], set[tuple[int, float]]] = {}
    for cell in plan.final_cells(table, any_choice(table), 1):
        key = (cell.world.name, cell.level)
        budgets.setdefault(key, set()).add((cell.stage.num_steps, cell.stage.view.share))
        for stage in cell.stage.chain():
            if stage.recipe.startswith("study/pretrain"):
                assert stage.num_steps == plan.PRETRAIN_STEPS
    assert all(len(of) == 1 for of in budgets.values())


def test_every_stage_is_a_recipe_that_loads(tmp_path: Path) -> None:
    """Catches settings with a misspelt field, hours into a run."""
    workplace = Workplace(tmp_path)
    workplace.manifest = lambda world, view: tmp_path / "x.jsonl"  # type: ignore[method-assign]  # no world is needed
    kinds = {}
    for table in TABLES:
        for cell in [*plan.search_cells(table), *plan.final_cells(table, any_choice(table), 1)]:
            for stage in cell.stage.chain():
                kinds[stage.recipe, stage.settings, stage.parent is None] = stage
    assert len(kinds) > 30
    for stage in kinds.values():
        recipe = load_recipe(recipe_of(stage.recipe)[0], workplace.overrides(stage))
        assert (recipe.model.init is None) == (stage.parent is None)
        assert recipe.model.init is not None or recipe.model.architecture is not None
        assert recipe.train.seed == stage.seed


def test_choosing_takes_the_best_and_breaks_ties_by_infonce(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a choice by another figure than the protocol's, or by cells that are no part of the search."""
    monkeypatch.setattr(plan, "RATES", (0.001, 0.002, 0.004))
    cells = [cell for cell in plan.search_cells("table2") if cell.row == "mean"]
    scores = {0.001: 60, 0.002: 20, 0.004: 60}
    losses = {0.001: 1.0, 0.002: 0.1, 0.004: 0.9}

    def score(cell: Cell) -> dict[str, float]:
        rate = dict(cell.stage.settings)["optim.lr"]
        return {"MeanR@": scores[rate], "InfoNCE": losses[rate]}

    records = [{"kind": "search", "row": c.row, "level": c.level, "figures": score(c)} for c in cells]
    others = [{**records[1], "kind": kind, "figures": {"MeanR@": 99, "InfoNCE": 0}} for kind in ("spread", "test")]
    others.append(
        {**records[1], "level": "try lr 0.3 x1", "figures": {"MeanR@": 99, "InfoNCE": 0}}
    )  # of an earlier grid
    assert dict(plan.choose("table2", records + others)["mean"])["optim.lr"] == 0.004


def test_a_second_seed_of_what_was_chosen_tells_the_spread() -> None:
    """Catches noise being read from a test split, or from points that differ in more than the seed."""
    chosen = any_choice("table2")
    spread = plan.spread_cells("table2", chosen)
    search = {(cell.row, cell.level): cell for cell in plan.search_cells("table2")}
    assert {cell.row for cell in spread} == set(chosen)
    for cell in spread:
        first = search[cell.row, cell.level]
        assert (cell.split, cell.stage.settings, cell.world) == ("val", first.stage.settings, first.world)
        assert cell.model_seed != first.model_seed


@pytest.mark.parametrize("table", plan.TABLES[1:])
def test_rows_and_levels_that_are_called_otherwise_are_otherwise(table: str) -> None:
    """Catches a setting of a level that something else overrides: two entries of a table that are one and the same."""
    names: dict[str, set[tuple[str, str]]] = {}
    for cell in plan.final_cells(table, any_choice(table), 1):
        names.setdefault(cell.key, set()).add((cell.row, cell.level))
    same = {frozenset(named) for named in names.values() if len(named) > 1}
    assert same <= {frozenset({("vip4", "base"), ("vip4", "start class x10")})}  # if the search chose the factor 10


def test_entries_of_tables_that_are_one_run_have_one_key() -> None:
    """Catches hours spent on the same model again, and a row that differs from its twin in another table."""
    keys: dict[tuple[str, str], set[str]] = {}
    rate = (("optim.lr", 1e-3),)
    for table in ("table3", "table4", "annex"):
        for cell in plan.final_cells(table, dict.fromkeys(any_choice(table), rate), 1):
            if cell.level == plan.BASE:
                keys.setdefault((table, cell.row), set()).add(cell.key)
    assert keys["table3", "none"] == keys["table4", "none"]
    assert keys["table3", "vs"] == keys["table4", "subtitles"]
    assert keys["table3", "d"] == keys["table4", "both"] == keys["annex", "warm, post-pre-trained"]
    alike = [("table4", "none"), ("table4", "subtitles"), ("table4", "both"), ("annex", "warm, post-pre-trained")]
    others = [keys[entry] for entry in keys if entry not in alike]
    assert len(set().union(*others)) == sum(map(len, others)), "no two others are alike"


def test_a_stage_is_known_by_all_that_its_weights_hang_on() -> None:
    """Catches a shared stage that is taken for another one."""
    warm = Stage("study/warmstart", World(), View("images"), 0)
    base = Stage("study/pretrain", World(), View("pretrain"), 0, (("optim.lr", 1e-3),), warm)
    others = [
        Stage("study/pretrain", World(), View("pretrain"), 0, (("optim.lr", 2e-3),), warm),
        Stage("study/pretrain", World(), View("pretrain"), 1, (("optim.lr", 1e-3),), warm),
        Stage("study/pretrain", World("B"), View("pretrain"), 0, (("optim.lr", 1e-3),), warm),
        Stage("study/pretrain", World(), View("pretrain", share=0.1), 0, (("optim.lr", 1e-3),), warm),
        Stage("study/pretrain", World(), View("pretrain"), 0, (("optim.lr", 1e-3),), warm, snapshot=80),
        Stage("study/pretrain", World(), View("pretrain"), 0, (("optim.lr", 1e-3),), warm, mixed=View("images")),
        Stage("study/pretrain", World(), View("pretrain"), 0, (("optim.lr", 1e-3),), base),
    ]
    assert len({stage.key for stage in (base, *others)}) == 8
    again = Stage("study/pretrain", World(), View("pretrain"), 0, (("optim.lr", 1e-3),), warm)
    assert again.key == base.key
