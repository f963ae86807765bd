"""The study's harness on very small worlds: cells are made, kept, shared and reported; the command line around it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from study import plan
from study.cells import read_record, read_records, write_record
from study.estimate import all_cells
from study.make import WorldSize
from study.run import run_cells
from study.stages import Stage, Workplace

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
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[list, Workplace, Path]:
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
    workplace = Workplace(root / "work")
    run_cells(
        cells, workplace, root / "study", workers=2, progress=lambda count, total: told.append(total), say=pytest.fail
    )
    assert told == [5] * 5, "a warm start, a post-pre-training and three cells"
    return cells, workplace, root / "study"


def test_cells_hold_what_their_figures_are_made_of(done: tuple[list, Workplace, Path]) -> None:
    """Catches cells that cannot be weighed later: without per-query values, seeds, settings or versions."""
    cells, _, results = done
    for cell in cells:
        record = json.loads(cell.file(results).read_text())
        assert len(record["ranks"]) == len(record["nll"]) == record["num_queries"] == 192
        asked = cell.downstream.asked
        assert {name: len(of) for name, of in record["pairs"].items()} == dict.fromkeys(asked, 192)
        assert {"R@1", "R@5", "R@10", "MeanR@", "InfoNCE", *asked} == record["figures"].keys()
        assert (record["split"], record["data_seed"], record["model_seed"]) == ("test", 1, 0)
        assert [stage["recipe"] for stage in record["stages"]][-1] == "study/finetune"
        assert all(stage["settings"]["train.steps"] == 2 for stage in record["stages"])
        assert record["versions"]["torch"]


def test_frame_averaging_cannot_tell_twins_apart(done: tuple[list, Workplace, Path]) -> None:
    """Catches a trace of order or motion in single frames, anywhere between the renderer and the score."""
    cells, _, results = done
    record = json.loads(next(c for c in cells if c.row == "mean").file(results).read_text())
    assert set(record["pairs"]["M"] + record["pairs"]["O"]) == {"="}


def test_finished_cells_and_shared_stages_are_left_alone(done: tuple[list, Workplace, Path]) -> None:
    """Catches a study that begins anew each day, and one that fills the disk with models nobody needs."""
    cells, workplace, results = done
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}
    stages = sorted(path.name for path in (workplace.root / "stages").iterdir())
    assert stages == sorted({stage.key for cell in cells for stage in cell.shared()})
    run_cells(
        cells, workplace, results, workers=1, progress=lambda *_: pytest.fail("nothing is left to do"), say=pytest.fail
    )
    assert before == {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}


def test_a_cell_that_is_made_again_is_the_same(done: tuple[list, Workplace, Path], tmp_path: Path) -> None:
    """Catches results that depend on which process made them, or when."""
    cells, workplace, results = done
    cell = next(c for c in cells if c.row == "vip4")
    run_cells([cell], workplace, tmp_path, workers=1, progress=lambda count, total: None, say=pytest.fail)
    first, second = (json.loads(cell.file(folder).read_text()) for folder in (results, tmp_path))
    for volatile in ("seconds", "versions"):
        first.pop(volatile), second.pop(volatile)
    assert first == second


def test_a_finished_cell_of_another_recipe_is_made_again(done: tuple[list, Workplace, Path], tmp_path: Path) -> None:
    """Catches figures that outlive the world, recipe or measure they are of, because a file has the right name."""
    cells, workplace, results = done
    cell = next(c for c in cells if c.row == "mean")
    stale = json.loads(cell.file(results).read_text()) | {"key": "of another recipe", "figures": {}}
    write_record(cell.file(tmp_path), stale)
    said: list[str] = []
    run_cells([cell], workplace, tmp_path, workers=1, progress=lambda count, total: None, say=said.append)
    assert len(said) == 1
    assert f"{tmp_path}: 1 finished" in said[0]
    assert read_record(cell.file(tmp_path))["figures"] == read_record(cell.file(results))["figures"]


def test_entries_that_are_one_run_are_made_once(done: tuple[list, Workplace, Path]) -> None:
    """Catches the same model being trained for each table that shows it, or shown under another table's labels."""
    cells, workplace, results = done
    cell = next(c for c in cells if c.row == "d")
    again = replace(cell, table="table4", row="both")
    run_cells([again], workplace, results, workers=1, progress=lambda *_: pytest.fail("made again"), say=pytest.fail)
    first, second = read_record(cell.file(results)), read_record(again.file(results))
    again.file(results).unlink()
    assert (second.pop("table"), second.pop("row")) == ("table4", "both")
    assert second.items() < first.items()


def test_the_command_line_plans_and_reports(done: tuple[list, Workplace, Path], tmp_path: Path) -> None:
    """Catches a report that does not reach its page, and a plan that would run something."""
    _, _, results = done
    records = read_records(results, "table2")
    study = tmp_path / "study"
    planned_cells = {
        (c.row, c.level, c.world.family, c.world.seed, c.model_seed): c for c in all_cells("table2", 2, study)
    }
    for family in ("A", "B"):
        for data_seed in (1, 2):
            for model_seed in (0, 1):
                for number, record in enumerate(records):
                    told = {**record, "family": family, "data_seed": data_seed, "model_seed": model_seed}
                    cell = planned_cells.get((record["row"], record["level"], family, data_seed, model_seed))
                    told["key"] = cell.key if cell else "of no cell"
                    file = study / "table2" / f"{family}{data_seed}{model_seed}{number}.json"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(json.dumps(told))
    stale = {**told, "key": "of another recipe", "level": "asked for long ago"}
    (study / "table2" / "stale.json").write_text(json.dumps(stale))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: begin -->\nold\n<!-- generated: end -->\nafter\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "study", *words, "--results", str(study)],
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
    assert (study / "figures" / "table2-asked.png").is_file()
    assert (study / "figures" / "table2-asked.csv").is_file()

    planned = run("table3", "--plan", "--json", "--workdir", str(tmp_path / "none"))
    assert planned.returncode == 0, planned.stderr
    (row,) = json.loads(planned.stdout)
    assert (row["table"], row["done"]) == ("table3", 0)
    assert row["to_do"] == row["cells"] > 50
    assert not (tmp_path / "none").exists()
    assert run("table9").returncode == 2
    assert run("table2", "--plan", "--search-only").returncode == 2
