"""The study's harness on very small worlds: cells are made, kept, shared and reported; the command line around it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from study import plan
from study.__main__ import RESULTS
from study.cells import pair_accuracy, summarise
from study.estimate import all_cells
from study.records import Results, name_of
from study.report import BEGIN, END, write_report
from study.run import run_cells
from study.stages import Stage, Workplace
from study.views import WorldSize

TINY = WorldSize(images=24, pretrain=24, train=60, val=1, test=1)


def shrunk(stage: Stage) -> Stage:
    """The same chain of runs, of two steps each."""
    small = {"train.steps": 2, "train.batch_size": 8}
    return replace(
        stage,
        world=replace(stage.world, size=TINY),
        settings=tuple((dict(stage.settings) | small).items()),
        parent=stage.parent and shrunk(stage.parent),
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[list, Workplace, Results]:
    """Three cells of two rows that share a warm start, one of them after post-pre-training."""
    root = tmp_path_factory.mktemp("study")
    any_choice = {
        row: settings for table in ("table2", "table3") for (row, _), settings in plan.search_points(table).items()
    }
    cells = [
        cell
        for table, level, rows in (
            ("table2", "base", ("mean",)),
            ("table2", "asked AMO", ("vip4",)),
            ("table3", "base", ("d",)),
        )
        for cell in plan.final_cells(table, any_choice, 1)
        if cell.row in rows and cell.level == level and cell.world.name == "A1"
    ]
    cells = [
        replace(
            cell,
            world=replace(cell.world, size=TINY),
            stage=shrunk(cell.stage),
            downstream=replace(cell.downstream, asked="AMO"),
        )
        for cell in cells
    ]
    told: list[int] = []
    workplace, results = Workplace(root / "work"), Results(root / "study")
    run_cells(cells, workplace, results, workers=2, progress=lambda count, total: told.append(total), log=pytest.fail)
    assert told == [5] * 5, "a warm start, a post-pre-training and three cells"
    return cells, workplace, Results(results.folder)  # from its files


def test_cells_hold_what_their_figures_are_made_of(done: tuple[list, Workplace, Results]) -> None:
    """Catches cells that cannot be weighed later: without per-query values, seeds, settings or versions."""
    cells, _, results = done
    for cell in cells:
        record = results.find(cell.labels)
        assert len(record["ranks"]) == len(record["nll"]) == record["num_queries"] == 192
        asked = cell.downstream.asked
        assert {name: len(of) for name, of in record["pairs"].items()} == dict.fromkeys(asked, 192)
        assert {"R@1", "R@5", "R@10", "MeanR@", "InfoNCE", *asked} == record["figures"].keys()
        assert (record["split"], record["data_seed"], record["model_seed"]) == ("test", 1, 0)
        assert [stage["recipe"] for stage in record["stages"]][-1] == "study/finetune"
        assert all(stage["settings"]["train.steps"] == 2 for stage in record["stages"])
        assert record["versions"]["torch"]


def test_frame_averaging_cannot_tell_twins_apart(done: tuple[list, Workplace, Results]) -> None:
    """Catches a trace of order or motion in single frames, anywhere between the renderer and the score."""
    cells, _, results = done
    record = results.find(next(c for c in cells if c.row == "mean").labels)
    assert set(record["pairs"]["M"] + record["pairs"]["O"]) == {"="}


def test_finished_cells_and_shared_stages_are_left_alone(done: tuple[list, Workplace, Results]) -> None:
    """Catches a study that begins anew each day, and one that fills the disk with models nobody needs."""
    cells, workplace, results = done
    before = {path: path.stat().st_mtime_ns for path in results.folder.rglob("*.jsonl")}
    stages = sorted(path.name for path in (workplace.root / "stages").iterdir())
    assert stages == sorted({stage.key for cell in cells for stage in cell.shared()})
    run_cells(
        cells, workplace, results, workers=1, progress=lambda *_: pytest.fail("nothing is left to do"), log=pytest.fail
    )
    assert before == {path: path.stat().st_mtime_ns for path in results.folder.rglob("*.jsonl")}


def test_a_cell_that_is_made_again_is_the_same(done: tuple[list, Workplace, Results], tmp_path: Path) -> None:
    """Catches results that depend on which process made them, or when."""
    cells, workplace, results = done
    cell = next(c for c in cells if c.row == "vip4")
    again = Results(tmp_path)
    run_cells([cell], workplace, again, workers=1, progress=lambda count, total: None, log=pytest.fail)
    first, second = ({**found} for found in (results.find(cell.labels), again.find(cell.labels)))
    for volatile in ("seconds", "versions"):
        first.pop(volatile), second.pop(volatile)
    assert first == second


def test_a_finished_cell_of_another_recipe_is_made_again(done: tuple[list, Workplace, Results], tmp_path: Path) -> None:
    """Catches figures that outlive the world, recipe or measure they are of, because a file has the right name."""
    cells, workplace, results = done
    cell = next(c for c in cells if c.row == "mean")
    own = Results(tmp_path)
    own.write(results.find(cell.labels) | {"key": "of another recipe", "figures": {}})
    said: list[str] = []
    run_cells([cell], workplace, own, workers=1, progress=lambda count, total: None, log=said.append)
    assert len(said) == 1
    assert f"{tmp_path}: 1 finished" in said[0]
    assert Results(tmp_path).find(cell.labels)["figures"] == results.find(cell.labels)["figures"]


def test_entries_that_are_one_run_are_made_once(done: tuple[list, Workplace, Results]) -> None:
    """Catches the same model being trained for each table that shows it, or shown under another table's labels."""
    cells, workplace, results = done
    cell = next(c for c in cells if c.row == "d")
    again = replace(cell, table="table4", row="both")
    run_cells([again], workplace, results, workers=1, progress=lambda *_: pytest.fail("made again"), log=pytest.fail)
    first, second = ({**Results(results.folder).find(entry.labels)} for entry in (cell, again))
    assert (second.pop("table"), second.pop("row")) == ("table4", "both")
    assert second.items() < first.items()


def test_the_command_line_plans_and_reports(done: tuple[list, Workplace, Results], tmp_path: Path) -> None:
    """Catches a report that does not reach its page, and a plan that would run something."""
    _, _, results = done
    records, study = results.records("table2"), Results(tmp_path / "study")
    planned_cells = {
        (c.row, c.level, c.world.family, c.world.seed, c.model_seed): c for c in all_cells("table2", 2, study)
    }
    for family in ("A", "B"):
        for data_seed in (1, 2):
            for model_seed in (0, 1):
                for record in records:
                    told = {**record, "family": family, "data_seed": data_seed, "model_seed": model_seed}
                    cell = planned_cells.get((record["row"], record["level"], family, data_seed, model_seed))
                    told["key"] = cell.key if cell else "of no cell"
                    study.write(told)
    study.write({**told, "key": "of another recipe", "level": "asked for long ago"})
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: begin -->\nold\n<!-- generated: end -->\nafter\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "study", *words, "--results", str(study.folder)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    told = run("report", "--page", str(page))
    assert told.returncode == 0, told.stderr
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "long ago" not in text
    assert "| asked AMO | vip4 | 4 |" in text
    assert "not yet run" in text
    assert "**Not complete**" in text
    assert (study.folder / "figures" / "table2-asked.png").is_file()
    assert (study.folder / "figures" / "table2-asked.csv").is_file()

    planned = run("table3", "--plan", "--json", "--workdir", str(tmp_path / "none"))
    assert planned.returncode == 0, planned.stderr
    (row,) = json.loads(planned.stdout)
    assert (row["table"], row["done"]) == ("table3", 0)
    assert row["to_do"] == row["cells"] > 50
    assert not (tmp_path / "none").exists()
    assert run("table9").returncode == 2
    assert run("table2", "--plan", "--search-only").returncode == 2


STORED = Results(RESULTS)
STORED_TABLES = {"table1": 12, "table2": 238, "table3": 135, "table4": 118, "figure1": 72, "annex": 56}


@pytest.mark.parametrize("table", plan.TABLES)
def test_all_stored_cells_are_those_of_the_plan(table: str) -> None:
    """Catches a cell lost or damaged in its file, and a change of worlds, texts, recipes or measures: those are part of
    the keys, by which the study would run cells again."""
    records = STORED.records(table)
    assert len(records) == STORED_TABLES[table]
    assert [name_of(record) for record in records] == sorted(name_of(record) for record in records)
    planned = {name_of(cell.labels): cell.key for cell in all_cells(table, plan.NUM_MODEL_SEEDS, STORED)}
    assert {name_of(record): record["key"] for record in records} == planned


@pytest.mark.parametrize("table", plan.TABLES[1:])
def test_stored_figures_are_those_of_their_queries(table: str) -> None:
    """Catches figures and per-query values that are of different cells."""
    for record in STORED.records(table):
        values = (np.array(record[name]) for name in ("ranks", "ties", "nll"))
        ranks, ties, nll = values
        assert len(ranks) == len(ties) == len(nll) == record["num_queries"]
        found = summarise(ranks, ties, nll / 100)
        found |= {attribute: pair_accuracy(outcomes) for attribute, outcomes in record["pairs"].items()}
        for name, figure in record["figures"].items():
            assert found[name] == pytest.approx(figure, abs=0.006 if name == "InfoNCE" else 1e-4), name


@pytest.mark.long
def test_the_page_is_what_the_stored_cells_give(tmp_path: Path) -> None:
    """Catches tables that were edited by hand, and a report that changed without its page."""
    for file in RESULTS.glob("*.jsonl"):
        shutil.copy(file, tmp_path)
    report = write_report(Results(tmp_path), None)["markdown"]
    page = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == report
