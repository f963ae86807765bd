"""What a run leaves in its work folder: atomic, checksummed checkpoints, the log, the recipe it was started with.

With several processes the main one writes and the others read.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from clipvip.errors import ClipVipWarning, TrainingError
from clipvip.files import file_digest, locked, replace_text
from clipvip.model import ClipVipModel, ClipVipProcessor
from clipvip.training.config import Recipe

KEEP_CHECKPOINTS = 2
CHECKSUMS = "checksums.json"
MAY_CHANGE = (
    "about",
    "hardware",
    "paper",
    "ours",
    "inputs",
    "data.num_workers",
    "data.on_decode_error",
    "data.max_bad_share",
    "data.cache",
    "train.save_every",
    "train.snapshot_every",
    "train.log_every",
    "train.trackers",
    "train.micro_batch",
    "train.activation_checkpointing",
)
"""Fields that a run may go on with other values of: its result does not hang on them (to rounding)."""


class WorkDir:
    """The folder of one run.

    recipe.yaml                 as resolved; another recipe in the same folder is refused
    log.jsonl, tensorboard/     curves
    checkpoints/step-000100/    model/ (weights, processor), trainer.pt and checksums.json; the last two are kept
    snapshots/step-000100/      models that are kept
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
        self._snapshots = path / "snapshots"
        self._summary = path / "summary.json"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder if need be, and keep other runs out. Raises: TrainingError if one is in it."""
        self._checkpoints.parent.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.path):
                yield
        except BlockingIOError:
            raise TrainingError(
                f"{self.path}: another run is at work there; wait for it, or choose another --workdir. (If you started "
                "several processes as one run, they do not see each other: start them with torchrun or accelerate)"
            ) from None

    def open(self, recipe: Recipe) -> None:
        """Check that the folder belongs to the same recipe, or make it so.

        Raises: TrainingError naming the first field that differs.
        """
        settings = json.loads(recipe.model_dump_json())
        file = self.path / "recipe.yaml"
        if file.exists():
            difference = _first_difference(_read_settings(file), settings)
            if difference:
                raise TrainingError(
                    f"{self.path}: holds a run of another recipe ({difference}); choose another --workdir or delete it"
                )
            return
        replace_text(file, yaml.safe_dump(settings, sort_keys=False))

    @property
    def summary(self) -> dict[str, Any] | None:
        """The finished run's summary, or None."""
        return json.loads(self._summary.read_text()) if self._summary.exists() else None

    def save_checkpoint(
        self, step: int, model: ClipVipModel, processor: ClipVipProcessor, trainer: Mapping[str, Any]
    ) -> None:
        """Write `checkpoints/step-N` aside and rename it into place, then drop the oldest beyond two.

        Raises: TrainingError if it cannot be written; what was there before is kept.
        """
        with _replacing(_numbered(self._checkpoints, step)) as folder:
            save_model(folder / "model", model, processor)
            try:
                torch.save(dict(trainer), folder / "trainer.pt")
            except RuntimeError as error:  # torch's own word for a full disk
                raise OSError(str(error)) from error
            sums = {file.relative_to(folder).as_posix(): file_digest(file) for file in _files(folder)}
            (folder / CHECKSUMS).write_text(json.dumps(sums, indent=2))
        for old in self._complete()[:-KEEP_CHECKPOINTS]:
            shutil.rmtree(old)

    def newest_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole, or None if there is none yet; the log is cut back to its step.

        A damaged one is renamed, with a warning, and the one before it taken. Raises: TrainingError if all are damaged.
        """
        _recover(self.best)
        complete = self._complete()
        for folder in reversed(complete):
            problem = _damage(folder)
            if problem is None:
                self._trim_log(_step(folder))
                return folder
            kept = folder.with_name(folder.name + ".damaged")
            shutil.rmtree(kept, ignore_errors=True)
            folder.rename(kept)
            warnings.warn(
                f"{folder}: damaged ({problem}); it is kept as {kept.name}, and the run goes on from the checkpoint "
                "before it",
                ClipVipWarning,
                stacklevel=2,
            )
        if complete:
            raise TrainingError(f"{self._checkpoints}: no checkpoint is whole; delete {self.path} to start anew")
        self._trim_log(0)
        return None

    @staticmethod
    def load_checkpoint(folder: Path, model: ClipVipModel) -> dict[str, Any]:
        """Load a checkpoint's weights into `model`; its trainer state."""
        try:
            state: dict[str, Any] = torch.load(folder / "trainer.pt", map_location="cpu", weights_only=True)
            model.load_state_dict(load_file(folder / "model" / "model.safetensors"))
        except FileNotFoundError:
            raise TrainingError(
                f"{folder}: not there; all processes of a run must see the same --workdir (a shared file system)"
            ) from None
        return state

    def save_snapshot(self, step: int, model: ClipVipModel, processor: ClipVipProcessor) -> None:
        """Keep the model of this step. Raises: TrainingError if it cannot be written."""
        with _replacing(_numbered(self._snapshots, step)) as folder:
            save_model(folder, model, processor)

    def save_best(self, model: ClipVipModel, processor: ClipVipProcessor) -> None:
        """Replace the best model so far. Raises: TrainingError if it cannot be written."""
        with _replacing(self.best) as folder:
            save_model(folder, model, processor)

    def finish(self, summary: Mapping[str, Any], source: Path | None) -> None:
        """Copy `source` (a model folder) to `model/` and write the summary; checkpoints are dropped."""
        with _replacing(self.model) as folder:
            shutil.copytree(source or self._complete()[-1] / "model", folder, dirs_exist_ok=True)
        replace_text(self._summary, json.dumps(dict(summary), indent=2))
        shutil.rmtree(self._checkpoints)

    def write_bad_clips(self, reasons: Mapping[str, str]) -> None:
        """List the clips that were left out so far."""
        rows = ({"clip_id": clip_id, "reason": reason} for clip_id, reason in reasons.items())
        replace_text(self.bad_clips, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one line to log.jsonl."""
        try:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(row)) + "\n")
        except OSError as error:
            raise TrainingError(
                f"{self._log}: cannot be written ({error.strerror}); make room, and the same command goes on from the "
                "last checkpoint"
            ) from error

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
        named = (path for path in self._checkpoints.glob("step-*") if path.name.removeprefix("step-").isdecimal())
        return sorted(named, key=_step)


def save_model(folder: Path, model: ClipVipModel, processor: ClipVipProcessor) -> None:
    """A model folder that `clipvip.load` and transformers' Auto classes read."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@contextmanager
def _replacing(final: Path) -> Iterator[Path]:
    """A new folder beside `final` to fill: it takes that name by a rename if the block ends well, or goes.

    Raises: TrainingError if it cannot be written, as on a full disk.
    """
    partial, old = _aside(final, "partial"), _aside(final, "old")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        for file in _files(partial):
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())  # a rename must not reach the disk before the bytes it stands for
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(final.parent).free if final.parent.exists() else 0
        shutil.rmtree(partial, ignore_errors=True)
        raise TrainingError(
            f"{final}: cannot be written ({' '.join(str(error).split())}; {free / 2**20:.0f} MiB are free there); what "
            "was saved before is kept: make room, and the same command goes on"
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _recover(final)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(partial, final)
    shutil.rmtree(old, ignore_errors=True)


def _recover(final: Path) -> None:
    """A crash between two renames leaves the old folder under its other name: give it back."""
    if not final.exists() and _aside(final, "old").exists():
        os.replace(_aside(final, "old"), final)


def _aside(final: Path, what: str) -> Path:
    return final.with_name(f"{final.name}.{what}")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _numbered(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's bytes, or None."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text())
        for name, digest in sums.items():
            if file_digest(folder / name) != digest:
                return f"{name} has other bytes than were written"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _read_settings(file: Path) -> Any:
    """A stored recipe, in which fields that have been added since then have their defaults."""
    stored = yaml.safe_load(file.read_text(encoding="utf-8"))
    try:
        return json.loads(Recipe.model_validate(stored).model_dump_json())
    except ValidationError:  # it has fields that no longer exist: the comparison names the first of them
        return stored


def _first_difference(old: Any, new: Any, where: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            name = f"{where}.{key}" if where else key
            found = "" if name in MAY_CHANGE else _first_difference(old.get(key), new.get(key), name)
            if found:
                return found
        return ""
    return "" if old == new else f"{where} was {old!r}, now {new!r}"
