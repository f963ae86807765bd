"""The one trainer: warm start, post-pre-training and fine-tuning differ only in their recipe."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clipvip.data.dataset import ClipDataset, Collator, Sources
from clipvip.data.loader import PassSampler, make_loader, steps_per_pass
from clipvip.data.manifest import read_manifest
from clipvip.encode import Encoder
from clipvip.errors import TrainingError
from clipvip.evaluation import retrieval_metrics, run_retrieval, twin_accuracy
from clipvip.model import MAX_LOGIT_SCALE
from clipvip.model.layers import Block
from clipvip.records import Clip
from clipvip.training.build import build_model
from clipvip.training.config import Recipe
from clipvip.training.optim import lr_factor, make_optimizer, set_lr
from clipvip.training.state import WorkDir
from clipvip.training.step import OmnisourceObjective


def train(recipe: Recipe, workdir: Path, *, progress: bool = True) -> dict[str, Any]:
    """Run a recipe in `workdir`, going on where an interrupted run of the same recipe stopped.

    Leaves `workdir/model` (a model folder) and returns the summary: steps, seconds, validation scores, skipped clips.
    Raises: ConfigError, ManifestError, TrainingError, VideoDecodeError (with on_decode_error="raise").
    """
    work = WorkDir(workdir)
    work.open(recipe)
    if work.summary is not None:
        return work.summary
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(recipe.train.float32_matmul)
    try:
        return _Run(recipe, work, progress).go()
    finally:
        torch.set_float32_matmul_precision(before)


class _Run:
    """The parts of one run; `go` is the loop."""

    def __init__(self, recipe: Recipe, work: WorkDir, progress: bool):
        self.recipe, self.work, self.progress = recipe, work, progress
        self.accelerator = Accelerator(
            mixed_precision="bf16" if recipe.train.precision == "bfloat16" else "no",
            log_with="tensorboard",
            project_dir=str(work.path),
        )
        if self.accelerator.num_processes > 1:
            raise TrainingError(
                f"{self.accelerator.num_processes} processes: training runs in one so far; start it without a launcher"
            )
        self.accelerator.init_trackers("tensorboard")
        set_seed(recipe.train.seed)
        self.model, self.processor = build_model(recipe.model)
        self.model.to(self.accelerator.device).train()
        if recipe.train.activation_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        if recipe.train.compile:
            for module in self.model.modules():
                if isinstance(module, Block):
                    module.compile()
        self.optimizer = make_optimizer(self.model, recipe.optim)
        self.objective = self.accelerator.prepare(OmnisourceObjective(self.model, recipe.loss))
        self.val = self._clips("val")
        self.best: float | None = None
        self.skipped: dict[str, str] = {}
        self.step, self.seconds = 0, 0.0
        if (state := work.load_checkpoint(self.model)) is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.best, self.skipped = (
                state[key] for key in ("step", "seconds", "best", "skipped")
            )
        self.dataset = self._dataset()
        self.num_steps = recipe.train.steps or max(
            1,
            round(recipe.train.epochs * steps_per_pass(len(self.dataset), recipe.train.batch_size)),  # type: ignore[operator]
        )
        self._logged_at, self._logged_step = time.perf_counter(), self.step

    def go(self) -> dict[str, Any]:
        """Fetch, step, log, save, evaluate."""
        train = self.recipe.train
        collator = Collator(self.processor.tokenize, self.processor.frames_to_pixels, self.dataset.sources)
        loader = make_loader(self.dataset, self._sampler(), collator, num_workers=self.recipe.data.num_workers)
        with self._bar() as bar:
            task = bar.add_task(escape(self.work.path.name), total=self.num_steps, completed=self.step, told="")
            for batch in loader:
                loss, norm = self._update(batch.to(self.accelerator.device))
                self.step += 1
                self._note_failures(batch.failures)
                last = self.step == self.num_steps
                log, evaluate, save = (
                    last or (every is not None and self.step % every == 0)
                    for every in (train.log_every, train.eval_every, train.save_every)
                )
                if log or evaluate or save:
                    self._check_finite(loss, norm, batch.clip_ids)
                if log:
                    bar.update(task, told=self._log_step(loss, norm))
                bar.update(task, completed=self.step)
                if evaluate:
                    self._validate()
                if save:
                    self._save()
        return self._finish()

    def _update(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step; loss and gradient norm stay on the device."""
        optim = self.recipe.optim
        set_lr(self.optimizer, lr_factor(self.step + 1, self.num_steps, optim.warmup_ratio))
        self.optimizer.zero_grad()
        loss = self._loss(batch)
        self.accelerator.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)
        return loss.detach(), norm

    def _loss(self, batch: Any) -> torch.Tensor:
        """Raises: TrainingError if torch.compile was asked for and cannot."""
        if not self.recipe.train.compile:
            return self.objective(batch)
        from torch._dynamo.exc import TorchDynamoException  # heavy, and only compiled runs have it loaded anyway

        try:
            return self.objective(batch)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(
                f"train.compile=true: {reason}; install a C++ compiler, or set train.compile=false"
            ) from error

    def _check_finite(self, loss: torch.Tensor, norm: torch.Tensor, clip_ids: tuple[str, ...]) -> None:
        """Before anything is saved or selected. Raises: TrainingError."""
        if not (math.isfinite(float(loss)) and math.isfinite(float(norm))):
            raise TrainingError(
                f"step {self.step}: loss {float(loss)}, gradient norm {float(norm)}; lower optim.lr (now "
                f"{self.recipe.optim.lr}) or look at the batch: {', '.join(clip_ids[:4])}, ...; "
                f"the last checkpoint in {self.work.path} is from before"
            )

    def _log_step(self, loss: torch.Tensor, norm: torch.Tensor) -> str:
        now = time.perf_counter()
        elapsed, self._logged_at = now - self._logged_at, now
        self.seconds += elapsed
        clips_per_s = (self.step - self._logged_step) * self.recipe.train.batch_size / elapsed
        self._logged_step = self.step
        row = {
            "loss": float(loss),
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": float(norm),
            "logit_scale": float(self.model.logit_scale.detach()),
            "clips_per_s": round(clips_per_s, 1),
        }
        self._record(row)
        return f"loss {row['loss']:.3f}  lr {row['lr']:.1e}  {clips_per_s:.0f} clips/s"

    def _validate(self) -> None:
        if self.val is None:
            return
        self.model.eval()
        found = run_retrieval(Encoder(self.model, self.processor), self.val)
        scores = retrieval_metrics(found.similarity, found.text_to_video)["t2v"]
        self.model.train()
        twins = twin_accuracy(found)
        extra = {} if twins is None else {"val_twin_accuracy": twins}
        self._record({f"val_{key}": value for key, value in scores.items()} | extra)
        if self.best is None or scores["R@1"] > self.best:
            self.best = scores["R@1"]
            self.work.save_best(self.model, self.processor)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "skipped": self.skipped,
            "optimizer": self.optimizer.state_dict(),
        }
        self.work.save_checkpoint(self.step, self.model, self.processor, state)

    def _finish(self) -> dict[str, Any]:
        self.accelerator.end_training()
        summary = {
            "steps": self.num_steps,
            "clips": len(self.dataset),
            "seconds": round(self.seconds, 1),
            "best_val_R@1": self.best,
            "selected": self.recipe.train.select if self.val is not None else "last",
            "skipped": self.skipped,
        }
        self.work.finish(summary, self.work.best if summary["selected"] == "best" else None)
        return summary

    def _clips(self, kind: str) -> list[Clip] | None:
        data = self.recipe.data
        manifest, split = (data.train, data.train_split) if kind == "train" else (data.val, data.val_split)
        return None if manifest is None else read_manifest(manifest, videos=data.videos, split=split)

    def _dataset(self) -> ClipDataset:
        data, variant = self.recipe.data, self.recipe.loss.variant
        clips = self._clips("train")
        assert clips is not None
        return ClipDataset(
            clips,
            num_frames=self.recipe.model.num_frames,
            sources=Sources(data.subtitle, "caption" if "c" in variant else None, "f" in variant),
            seed=self.recipe.train.seed,
            jitter=data.jitter,
            decoder_size=self.processor.decoder_size,
            on_decode_error=data.on_decode_error,
            cache=data.cache,
        )

    def _sampler(self) -> PassSampler:
        train = self.recipe.train
        return PassSampler(len(self.dataset), train.batch_size, self.num_steps, seed=train.seed, start_step=self.step)

    def _note_failures(self, failures: tuple[tuple[str, str], ...]) -> None:
        for clip_id, reason in failures:
            if clip_id not in self.skipped:
                self.skipped[clip_id] = reason
                self.work.log({"step": self.step, "skipped": clip_id, "reason": reason})

    def _record(self, row: dict[str, Any]) -> None:
        self.work.log({"step": self.step, **row})
        self.accelerator.log(row, step=self.step)

    def _bar(self) -> Progress:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
        )  # fmt: skip
        return Progress(*columns, console=Console(stderr=True), disable=not self.progress)
