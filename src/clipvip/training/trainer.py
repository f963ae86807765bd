"""The one trainer: warm start, post-pre-training and fine-tuning differ only in their recipe."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clipvip.data.clips import open_clips
from clipvip.data.dataset import ClipDataset, Collator, Sources
from clipvip.data.loader import PassSampler, fetched, make_loader, steps_per_pass
from clipvip.data.manifest import read_manifest
from clipvip.encode import Encoder
from clipvip.errors import Interrupted, TrainingError, VideoDecodeError
from clipvip.evaluation import retrieval_metrics, run_retrieval, twin_accuracy
from clipvip.model import MAX_LOGIT_SCALE
from clipvip.model.layers import Block
from clipvip.training.build import build_model
from clipvip.training.config import MixSection, Recipe
from clipvip.training.optim import lr_factor, make_optimizer, set_lr
from clipvip.training.signals import signals_noted
from clipvip.training.state import WorkDir
from clipvip.training.step import OmnisourceObjective


def train(recipe: Recipe, workdir: Path, *, progress: bool = True) -> dict[str, Any]:
    """Run a recipe in `workdir`, going on where an interrupted run of the same recipe stopped.

    Leaves `workdir/model` (a model folder) and returns the summary: steps, seconds, validation scores, skipped clips.
    SIGINT and SIGTERM take effect after the step, with its state saved.
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
        data = recipe.data
        self.val = read_manifest(data.val, videos=data.videos, split=data.val_split) if data.val else None
        self.best: float | None = None
        self.skipped: dict[str, str] = {}
        self.step, self.seconds = 0, 0.0
        if (state := work.load_checkpoint(self.model)) is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.best, self.skipped = (
                state[key] for key in ("step", "seconds", "best", "skipped")
            )
        self.datasets = self._datasets()
        self.num_clips = sum(len(dataset) for dataset in self.datasets)
        self.num_steps = self._num_steps()
        self._logged_at, self._logged_step = time.perf_counter(), self.step

    def go(self) -> dict[str, Any]:
        """Fetch, step, log, save, evaluate."""
        train = self.recipe.train
        processor = self.processor
        collator = Collator(
            processor.tokenize, processor.frames_to_pixels, processor.image_size, processor.resize,
            self.datasets[0].sources,
        )  # fmt: skip
        loader = make_loader(self.datasets, self._sampler(), collator, num_workers=self.recipe.data.num_workers)
        with self._bar() as bar, signals_noted() as noted:
            task = bar.add_task(escape(self.work.path.name), total=self.num_steps, completed=self.step, told="")
            for batch in fetched(loader, noted):
                self._note_failures(batch.failures)
                if not batch.clip_ids:
                    raise VideoDecodeError(f"not one clip of a batch can be decoded; the first: {batch.failures[0][1]}")
                loss, norm = self._update(batch.to(self.accelerator.device).normalized(processor.frames_to_pixels))
                self.step += 1
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
                if noted:
                    self._check_finite(loss, norm, batch.clip_ids)
                    break
        if self.step < self.num_steps:  # asked to end
            self._save()
            signal.raise_signal(noted[0])  # now for what it does by itself
            raise Interrupted(noted[0])
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
            "clips": self.num_clips,
            "seconds": round(self.seconds, 1),
            "best_val_R@1": self.best,
            "selected": self.recipe.train.select if self.val is not None else "last",
            "skipped": self.skipped,
        }
        self.work.finish(summary, self.work.best if summary["selected"] == "best" else None)
        return summary

    def _datasets(self) -> list[ClipDataset]:
        data, variant = self.recipe.data, self.recipe.loss.variant
        main = MixSection(
            data=data.train, share=0.5, videos=data.videos, split=data.train_split, subtitle=data.subtitle,
            caption="caption",
        )  # fmt: skip
        return [
            ClipDataset(
                open_clips(source.data, videos=source.videos, split=source.split),
                num_frames=self.recipe.model.num_frames,
                sources=Sources(source.subtitle, source.caption if "c" in variant else None, "f" in variant),
                seed=self.recipe.train.seed,
                jitter=data.jitter,
                decoder_size=self.processor.decoder_size,
                cache=data.cache,
            )
            for source in (main, *data.mix)
        ]

    def _num_steps(self) -> int:
        """`epochs` counts passes over the main source."""
        train = self.recipe.train
        if train.epochs is None:
            assert train.steps is not None  # the recipe saw to it
            return train.steps
        own_share = 1 - sum(source.share for source in self.recipe.data.mix)
        return max(1, round(train.epochs * steps_per_pass(len(self.datasets[0]), train.batch_size) / own_share))

    def _sampler(self) -> PassSampler:
        train = self.recipe.train
        return PassSampler(
            self.datasets, train.batch_size, self.num_steps, seed=train.seed, start_step=self.step,
            shares=[source.share for source in self.recipe.data.mix],
        )  # fmt: skip

    def _note_failures(self, failures: tuple[tuple[str, str], ...]) -> None:
        """Raises: VideoDecodeError if clips may not be left out; TrainingError if too many had to be."""
        if failures and self.recipe.data.on_decode_error == "raise":
            raise VideoDecodeError(": ".join(failures[0]))
        new = {clip_id: reason for clip_id, reason in failures if clip_id not in self.skipped}
        if not new:
            return
        self.skipped |= new
        for clip_id, reason in new.items():
            self.work.log({"step": self.step + 1, "skipped": clip_id, "reason": reason})  # the step to come
        self.work.write_bad_clips(self.skipped)
        if len(self.skipped) > self.recipe.data.max_bad_share * self.num_clips:
            raise TrainingError(
                f"{len(self.skipped)} of {self.num_clips} clips cannot be decoded, more than "
                f"data.max_bad_share={self.recipe.data.max_bad_share:g}; see {self.work.bad_clips}, clean the manifest "
                "(clipvip data check --fix), or allow more"
            )

    def _record(self, row: dict[str, Any]) -> None:
        self.work.log({"step": self.step, **row})
        self.accelerator.log(row, step=self.step)

    def _bar(self) -> Progress:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
        )  # fmt: skip
        return Progress(*columns, console=Console(stderr=True), disable=not self.progress)
