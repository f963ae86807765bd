"""What a run leaves in its work folder: atomic checkpoints, the log, the recipe it was started with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from clipvip.errors import TrainingError
from clipvip.files import replace_text
from clipvip.model import ClipVipModel, ClipVipProcessor
from clipvip.training.config import Recipe

KEEP_CHECKPOINTS = 2
MAY_CHANGE = (
    "about",
    "data.num_workers",
    "data.on_decode_error",
    "data.max_bad_share",
    "data.cache",
    "train.save_every",
)
"""Fields that a run may go on with other values of: its result does not hang on them."""


class WorkDir:
    """The folder of one run.

    recipe.yaml                 as resolved; another recipe in the same folder is refused
    log.jsonl, tensorboard/     curves
    checkpoints/step-000100/    model/ (weights, processor) and trainer.pt; the last two are kept
    best/                       the model of the best validation so far
    bad_clips.jsonl             clips that had to be left out, and why
    model/, summary.json        the result; summary.json is written last, so its presence means "finished"
    """

    def __init__(self, path: Path):
        self.path = path
        self.model = path / "model"
        self.best = path / "best"
        self.bad_clips = path / "bad_clips.jsonl"
        self._log = path / "log.jsonl"
        self._checkpoints = path / "checkpoints"
        self._summary = path / "summary.json"

    def open(self, recipe: Recipe) -> None:
        """Make the folder, or check that it belongs to the same recipe.

        Raises: TrainingError naming the first field that differs.
        """
        settings = json.loads(recipe.model_dump_json())
        file = self.path / "recipe.yaml"
        if file.exists():
            difference = _first_difference(yaml.safe_load(file.read_text(encoding="utf-8")), settings)
            if difference:
                raise TrainingError(
                    f"{self.path}: holds a run of another recipe ({difference}); choose another --workdir or delete it"
                )
            return
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        replace_text(file, yaml.safe_dump(settings, sort_keys=False))

    @property
    def summary(self) -> dict[str, Any] | None:
        """The finished run's summary, or None."""
        return json.loads(self._summary.read_text()) if self._summary.exists() else None

    def save_checkpoint(
        self, step: int, model: ClipVipModel, processor: ClipVipProcessor, trainer: Mapping[str, Any]
    ) -> None:
        """Write `checkpoints/step-N` aside and rename it into place, then drop the oldest beyond two."""
        final = self._checkpoints / f"step-{step:06d}"
        with _aside(final) as folder:
            save_model(folder / "model", model, processor)
            torch.save(dict(trainer), folder / "trainer.pt")
        for old in self._complete()[:-KEEP_CHECKPOINTS]:
            shutil.rmtree(old)

    def load_checkpoint(self, model: ClipVipModel) -> dict[str, Any] | None:
        """Load the newest complete checkpoint's weights into `model`; its trainer state, or None if there is none.

        Log lines past that step are dropped: the run will write them again.
        """
        complete = self._complete()
        if not complete:
            self._trim_log(0)
            return None
        state = torch.load(complete[-1] / "trainer.pt", weights_only=True)
        model.load_state_dict(load_file(complete[-1] / "model" / "model.safetensors"))
        self._trim_log(state["step"])
        return state

    def save_best(self, model: ClipVipModel, processor: ClipVipProcessor) -> None:
        """Replace the best model so far."""
        with _aside(self.best) as folder:
            save_model(folder, model, processor)

    def finish(self, summary: Mapping[str, Any], source: Path | None) -> None:
        """Copy `source` (a model folder) to `model/` and write the summary; checkpoints are dropped."""
        with _aside(self.model) as folder:
            shutil.copytree(source or self._complete()[-1] / "model", folder, dirs_exist_ok=True)
        replace_text(self._summary, json.dumps(dict(summary), indent=2))
        shutil.rmtree(self._checkpoints)

    def write_bad_clips(self, reasons: Mapping[str, str]) -> None:
        """List the clips that were left out so far."""
        rows = ({"clip_id": clip_id, "reason": reason} for clip_id, reason in reasons.items())
        replace_text(self.bad_clips, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one line to log.jsonl."""
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row)) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """All log lines. A last line cut off by a crash is left out."""
        if not self._log.exists():
            return []
        lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _trim_log(self, step: int) -> None:
        rows = [row for row in self.read_log() if row["step"] <= step]
        replace_text(self._log, "".join(json.dumps(row) + "\n" for row in rows))

    def _complete(self) -> list[Path]:
        complete = (path for path in self._checkpoints.glob("step-*") if not path.name.endswith(".partial"))
        return sorted(complete, key=lambda path: int(path.name.removeprefix("step-")))


def save_model(folder: Path, model: ClipVipModel, processor: ClipVipProcessor) -> None:
    """A model folder that `clipvip.load` and transformers' Auto classes read."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


class _aside:
    """Build a folder under another name; on success it replaces `final` by a rename."""

    def __init__(self, final: Path):
        self.final = final
        self.partial = final.with_name(final.name + ".partial")

    def __enter__(self) -> Path:
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        return self.partial

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.partial, ignore_errors=True)
            return
        for file in self.partial.rglob("*"):
            if file.is_file():
                with file.open("rb+") as handle:
                    os.fsync(handle.fileno())  # a rename must not reach the disk before the bytes it stands for
        old = self.final.with_name(self.final.name + ".old.partial")
        shutil.rmtree(old, ignore_errors=True)
        if self.final.exists():
            os.replace(self.final, old)
        os.replace(self.partial, self.final)
        shutil.rmtree(old, ignore_errors=True)


def _first_difference(old: Any, new: Any, where: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            name = f"{where}.{key}" if where else key
            found = "" if name in MAY_CHANGE else _first_difference(old.get(key), new.get(key), name)
            if found:
                return found
        return ""
    return "" if old == new else f"{where} was {old!r}, now {new!r}"
