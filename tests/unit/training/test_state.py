"""What a crash, or a disk, may do to a run's folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import yaml

import clipvip
from clipvip.errors import ClipVipWarning, TrainingError
from clipvip.model import ClipVipModel, ClipVipProcessor
from clipvip.training import load_recipe
from clipvip.training.state import WorkDir
from helpers_model import write_model


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipVipModel, ClipVipProcessor]:
    encoder = clipvip.load(write_model(tmp_path_factory.mktemp("model")))
    return ClipVipModel(encoder.model.config), encoder.processor


@pytest.fixture
def work(parts: tuple[ClipVipModel, ClipVipProcessor], tmp_path: Path) -> WorkDir:
    """Checkpoints of steps 10 and 20, whose temperatures tell them apart, and a log of 25 steps."""
    model, processor = parts
    work = WorkDir(tmp_path / "run")
    (tmp_path / "run").mkdir()
    for step in (10, 20):
        with torch.no_grad():
            model.logit_scale.fill_(step / 10)
        work.save_checkpoint(step, model, processor, {"step": step, "optimizer": {}})
    for step in range(1, 26):
        work.log({"step": step})
    return work


def load(work: WorkDir, model: ClipVipModel) -> tuple[int, float, int]:
    """Step, temperature and length of the log after a resume."""
    folder = work.newest_checkpoint()
    assert folder is not None
    return work.load_checkpoint(folder, model)["step"], float(model.logit_scale.detach()), len(work.read_log())


def test_the_newest_is_taken_and_the_log_cut(work: WorkDir, parts: tuple[ClipVipModel, ClipVipProcessor]) -> None:
    """Catches an old checkpoint, and log lines of steps that will be taken again."""
    assert load(work, parts[0]) == (20, 2.0, 20)


@pytest.mark.parametrize("name", ["trainer.pt", "model/model.safetensors", "checksums.json", "model/config.json"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(
    name: str, how: str, work: WorkDir, parts: tuple[ClipVipModel, ClipVipProcessor]
) -> None:
    """Catches a resume from rotten bytes, and a run that can never be resumed because of them."""
    folder = work.path / "checkpoints" / "step-000020"
    file = folder / name
    content = bytearray(file.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    file.write_bytes(content[: len(content) // 2] if how == "cut" else content)
    if how == "gone":
        file.unlink()
    with pytest.warns(ClipVipWarning, match=r"step-000020: damaged .*from the checkpoint before it"):
        assert load(work, parts[0]) == (10, 1.0, 10)
    assert not folder.exists()
    assert folder.with_name("step-000020.damaged").exists()
    assert load(work, parts[0]) == (10, 1.0, 10)  # and no warning again


def test_without_a_whole_checkpoint_nothing_starts_anew_by_itself(work: WorkDir) -> None:
    """Catches days of training silently begun from the first step."""
    for folder in (work.path / "checkpoints").iterdir():
        (folder / "trainer.pt").unlink()
    with pytest.warns(ClipVipWarning), pytest.raises(TrainingError, match="no checkpoint is whole; delete"):
        work.newest_checkpoint()


def test_a_folder_from_before_a_field_existed_goes_on(tmp_path: Path) -> None:
    """Catches a new field with its default taken for a changed recipe: runs could not be resumed after an update."""
    recipe = load_recipe("demo/finetune", ["data.train=x.jsonl"])
    work = WorkDir(tmp_path)
    work.open(recipe)
    file = tmp_path / "recipe.yaml"
    old = yaml.safe_load(file.read_text())
    del old["optim"]["rule"]
    file.write_text(yaml.safe_dump(old))
    work.open(recipe)
    other = load_recipe("demo/finetune", ["data.train=x.jsonl", "optim.rule=released"])
    with pytest.raises(TrainingError, match=r"another recipe \(optim.rule was 'torch', now 'released'\)"):
        work.open(other)


def test_half_written_checkpoints_do_not_count(work: WorkDir, parts: tuple[ClipVipModel, ClipVipProcessor]) -> None:
    """Catches a folder that a kill left unfinished taken for a checkpoint."""
    (work.path / "checkpoints" / "step-000030.partial").mkdir()
    assert load(work, parts[0])[0] == 20
    work.save_checkpoint(30, *parts, {"step": 30})
    names = sorted(path.name for path in (work.path / "checkpoints").iterdir())
    assert names == ["step-000020", "step-000030"]


def test_a_crash_between_two_renames_loses_no_best_model(
    work: WorkDir, parts: tuple[ClipVipModel, ClipVipProcessor]
) -> None:
    """Catches the moment in which the old best model is aside and the new one not yet in its place."""
    work.save_best(*parts)
    os.replace(work.best, work.best.with_name("best.old"))  # as `_replacing` does, and then the power fails
    work.newest_checkpoint()
    assert (work.best / "model.safetensors").exists()
    work.finish({"steps": 20}, work.best)
    assert json.loads((work.path / "summary.json").read_text()) == {"steps": 20}


def test_unwritable_folders_are_told_with_the_room_there_is(
    work: WorkDir, parts: tuple[ClipVipModel, ClipVipProcessor]
) -> None:
    """Catches an OSError of some library in place of the folder and the way out."""
    (work.path / "snapshots").write_text("a file where a folder should be")
    with pytest.raises(TrainingError, match=r"step-000005: cannot be written .*MiB are free there"):
        work.save_snapshot(5, *parts)
