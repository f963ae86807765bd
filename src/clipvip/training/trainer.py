"""The one trainer: warm start, post-pre-training and fine-tuning differ only in their recipe.

Over several processes every one runs this same code on its share of each batch; the main one writes.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.markup import escape
from rich.progress import Progress
from torch.utils.data import DataLoader

from clipvip import distributed
from clipvip.data import Address, Batch, fetch, read_manifest
from clipvip.encode import DistributedEncoder, Encoder
from clipvip.errors import ClipVipError, Interrupted, TrainingError, VideoDecodeError
from clipvip.evaluation import retrieval_metrics, run_retrieval, twin_accuracy
from clipvip.model import MAX_LOGIT_SCALE, optimize_for_training
from clipvip.model.kernels import compile_blocks
from clipvip.model.kernels.products import warn_of_slow_bfloat16
from clipvip.progress import progress_line
from clipvip.training.build import (
    build_model,
    load_batches,
    make_datasets,
    make_sampler,
    number_of_steps,
    usual_duration_s,
)
from clipvip.training.config import Recipe
from clipvip.training.launch import (
    check_same_weights,
    note_signals,
    run_conditions,
    start_accelerator,
    start_trackers,
)
from clipvip.training.meter import Meter, batch_flops
from clipvip.training.state import WorkDir
from clipvip.training.step import OmnisourceObjective, Schedule, freeze_text, lr_factor, make_optimizer, set_lr


def train(recipe: Recipe, workdir: Path, *, progress: bool = True) -> dict[str, Any]:
    """Run a recipe in `workdir`, from where an interrupted run of the same recipe stopped.

    Leaves `workdir/model` (a model folder) and returns the summary: steps, seconds, validation scores, skipped clips.
    Under torchrun or accelerate launch the processes share each batch; `workdir` must then be visible to all of them.
    SIGINT and SIGTERM take effect after the step, with its state saved.
    Raises: ConfigError, ManifestError, TrainingError, VideoDecodeError (with on_decode_error="raise").
    """
    work = WorkDir(workdir)
    accelerator = start_accelerator(recipe.train.trackers, workdir)
    with run_conditions(recipe), ExitStack() as stack:
        distributed.on_main(lambda: stack.enter_context(work.claimed()))
        distributed.on_main(lambda: work.open(recipe))
        summary = distributed.on_main(lambda: work.summary)
        if summary is not None:
            return summary
        start_trackers(accelerator, recipe.train.trackers)
        return Run(recipe, work, accelerator, progress).go()


@dataclass(frozen=True, slots=True)
class StepStatus:
    """What one process knows before a step: the clips of its share, those it could not decode (clip_id, reason), and a
    signal that asked it to end, or 0.
    """

    clip_ids: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    signum: int = 0


class Run:
    """The parts of one run; `go` is the loop."""

    def __init__(self, recipe: Recipe, work: WorkDir, accelerator: Accelerator, progress: bool):
        self.recipe, self.work, self.accelerator, self.progress = recipe, work, accelerator, progress
        train, data = recipe.train, recipe.data
        set_seed(train.seed)
        self.model, self.processor = build_model(recipe.model)
        self.model.to(accelerator.device).train()
        freeze_text(self.model, recipe.optim.freeze_text)
        if train.precision == "bfloat16":
            warn_of_slow_bfloat16(accelerator.device, "set train.precision=float32")
        if train.kernels == "fast":
            optimize_for_training(self.model)
        if train.activation_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        if train.compile:
            compile_blocks(self.model)
        self.optimizer = make_optimizer(self.model, recipe.optim)
        self.datasets = make_datasets(recipe, self.processor.decoder_size)
        duration_s = distributed.on_main(lambda: usual_duration_s(self.datasets[0]))
        if duration_s is not None:  # images say nothing about it
            self.model.config.clip_duration_s = duration_s
        self.val = read_manifest(data.val, videos=data.videos, split=data.val_split) if data.val else None
        self.num_clips = sum(len(dataset) for dataset in self.datasets)
        self.num_steps = number_of_steps(recipe, len(self.datasets[0]))
        self.schedule = Schedule(train, self.num_steps)
        self.step, self.seconds = 0, 0.0
        self.best: float | None = None  # validation R@1
        self.signum = 0  # of the signal that asked the run to end
        self.skipped: dict[str, str] = {}  # reasons by clip_id
        self._resume()
        check_same_weights(self.model, self.step)
        share = train.batch_size // distributed.world()
        self.micro_batch = train.micro_batch if train.micro_batch and train.micro_batch < share else None
        bfloat16 = train.precision == "bfloat16"
        objective = OmnisourceObjective(self.model, recipe.loss, self.processor.frames_to_pixels, autocast=bfloat16)
        self.objective = objective if self.micro_batch else accelerator.prepare_model(objective)
        self.meter = Meter(accelerator.device, torch.bfloat16 if bfloat16 else torch.float32)
        self.first_bad = torch.zeros((), dtype=torch.int64, device=accelerator.device)  # step of a NaN; 0: none so far
        self.recent: dict[int, tuple[str, ...]] = {}  # clips of the steps since the last check for NaN

    def go(self) -> dict[str, Any]:
        """Fetch, step, log, evaluate, save. Returns: the summary."""
        with self.bar() as bar, note_signals() as noted:
            task = bar.add_task(escape(self.work.path.name), total=self.num_steps, completed=self.step, message="")
            for batch, sizes in self.batches(noted):
                loss, norm = self.update(batch, sizes)
                self.step += 1
                due = self.schedule.due(self.step)
                if due:
                    self._check_finite()
                if "log" in due:
                    bar.update(task, message=self._log_step(loss, norm))
                bar.update(task, completed=self.step)
                with self.meter.paused():
                    is_best = "evaluate" in due and self._validate()
                    if "snapshot" in due:
                        distributed.on_main(lambda: self.work.save_snapshot(self.step, self.model, self.processor))
                    if "save" in due or is_best:  # a resumed run must know the score of the best model that is there
                        self._save()
        if self.step < self.num_steps:
            self._check_finite()
            self._save()
            signal.raise_signal(self.signum)  # now with its usual effect
            raise Interrupted(self.signum)
        return self._finish()

    def batches(
        self, noted: Sequence[int], order: Iterable[list[Address]] | None = None
    ) -> Iterator[tuple[Batch, list[int]]]:
        """This process's share of each step's batch, on its device, and the number of clips in every process's share.

        order: the clips of this process's shares; None: all that are to come. They end early if a signal was noted in
        any process.
        Raises: VideoDecodeError, TrainingError if clips cannot be decoded, in any process, and must not be left out.
        """
        if order is None:
            order = make_sampler(self.recipe, self.datasets, self.num_steps, self.step)
        own = fetch(self.load(order), noted)
        for step in range(self.step + 1, self.num_steps + 1):
            with self.meter.waiting():
                batch = next(own, None)
            signum = noted[0] if noted else 0
            status = StepStatus(signum=signum) if batch is None else StepStatus(batch.clip_ids, batch.failures, signum)
            statuses = distributed.exchange(status)
            self.signum = max(status.signum for status in statuses)
            if self.signum or batch is None:
                return
            failures = [failure for status in statuses for failure in status.failures]
            try:
                self._skip(failures, step)
                if not any(status.clip_ids for status in statuses):
                    raise VideoDecodeError(f"not one clip of a batch can be decoded; the first: {failures[0][1]}")
            except ClipVipError as error:
                raise distributed.said_once(error) from None
            self.recent[step] = tuple(clip_id for status in statuses for clip_id in status.clip_ids)
            yield batch.to(self.accelerator.device), [len(status.clip_ids) for status in statuses]

    def update(self, batch: Batch, sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step; loss and gradient norm stay on the device."""
        optim = self.recipe.optim
        set_lr(self.optimizer, lr_factor(self.step + 1, self.num_steps, optim.warmup_ratio))
        self.optimizer.zero_grad()
        if self.micro_batch:
            loss = self.objective.cached_backward(batch, self.micro_batch, sizes)
            distributed.average_gradients(self.model.parameters())
        else:
            loss = self.objective(batch, sizes)
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)
        bad = ~(loss.isfinite() & norm.isfinite()) & (self.first_bad == 0)
        self.first_bad = torch.where(bad, self.step + 1, self.first_bad)
        self.meter.add(sum(sizes), len(batch.clip_ids) * batch_flops(self.model.config, batch))
        return loss.detach(), norm

    def _check_finite(self) -> None:
        """Before anything is saved or selected. Raises: TrainingError."""
        step = int(self.first_bad)
        if step:
            clip_ids = self.recent[step]
            self._log({"step": step, "not_finite": list(clip_ids)})
            problem = TrainingError(
                f"step {step}: the loss or its gradient is not finite; lower optim.lr (now {self.recipe.optim.lr}) or "
                f"look at its {len(clip_ids)} clips: {', '.join(clip_ids[:4])}, ... (all: {self.work.path}/log.jsonl); "
                "the last checkpoint there is from before"
            )
            raise distributed.said_once(problem)
        self.recent.clear()

    def _log_step(self, loss: torch.Tensor, norm: torch.Tensor) -> str:
        rates, optim = self.meter.read(), self.recipe.optim
        self.seconds += rates.pop("seconds")
        row = {
            "loss": float(loss),
            "lr": optim.lr * lr_factor(self.step, self.num_steps, optim.warmup_ratio),  # of this step
            "grad_norm": float(norm),
            "logit_scale": float(self.model.logit_scale.detach()),
            **rates,
        }
        self._record(row)
        message = f"loss {row['loss']:.3f}  lr {row['lr']:.1e}  {rates['clips_per_s']:.0f} clips/s"
        return message + (f"  {rates['data_wait']:.0%} waiting for data" if rates["data_wait"] > 0.05 else "")

    def _validate(self) -> bool:
        """Whether this is the best model so far."""
        if self.val is None:
            return False
        self.model.eval()
        encoder = DistributedEncoder(Encoder(self.model, self.processor))
        found = run_retrieval(encoder, self.val, join_captions=self.recipe.data.join_captions)
        scores = retrieval_metrics(found.similarity, found.text_to_video)["t2v"]
        scores = distributed.exchange(scores)[0]  # all must agree on what is best, to the last bit
        self.model.train()
        twins = twin_accuracy(found)
        extra = {} if twins is None else {"val_twin_accuracy": twins}
        self._record({f"val_{key}": value for key, value in scores.items()} | extra)
        if self.best is not None and scores["R@1"] <= self.best:
            return False
        self.best = scores["R@1"]
        distributed.on_main(lambda: self.work.save_best(self.model, self.processor))
        return True

    def _resume(self) -> None:
        folder = distributed.on_main(self.work.newest_checkpoint)
        if folder is not None:
            state = self.work.load_checkpoint(folder, self.model)
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
            self.skipped |= state["skipped"]

    def _save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "skipped": self.skipped,
            "optimizer": self.optimizer.state_dict(),
        }
        distributed.on_main(lambda: self.work.save_checkpoint(self.step, self.model, self.processor, state))

    def _finish(self) -> dict[str, Any]:
        summary = {
            "steps": self.num_steps,
            "clips": self.num_clips,
            "seconds": round(self.seconds, 1),
            "best_val_R@1": self.best,
            "selected": self.recipe.train.select if self.val is not None else "last",
            "skipped": self.skipped,
        }
        source = self.work.best if summary["selected"] == "best" else None
        distributed.on_main(lambda: self.work.finish(summary, source))
        for tracker in self.accelerator.trackers:
            tracker.finish()
        return summary

    def _skip(self, failures: Sequence[tuple[str, str]], step: int) -> None:
        """Leave out clips that cannot be decoded. Raises: VideoDecodeError, TrainingError if the recipe forbids it."""
        data, before = self.recipe.data, len(self.skipped)
        for clip_id, reason in failures:
            if data.on_decode_error == "raise":
                raise VideoDecodeError(f"{clip_id}: {reason}")
            if clip_id not in self.skipped:
                self.skipped[clip_id] = reason
                self._log({"step": step, "skipped": clip_id, "reason": reason})
        if len(self.skipped) == before:
            return
        if distributed.rank() == 0:
            self.work.write_bad_clips(self.skipped)
        if len(self.skipped) > data.max_bad_share * self.num_clips:
            raise TrainingError(
                f"{len(self.skipped)} of {self.num_clips} clips cannot be decoded, more than "
                f"data.max_bad_share={data.max_bad_share:g}; see bad_clips.jsonl in the work folder, clean the "
                "manifest (clipvip data check --fix), or allow more"
            )

    def _record(self, row: dict[str, Any]) -> None:
        self._log({"step": self.step, **row})
        self.accelerator.log(row, step=self.step)

    def _log(self, row: dict[str, Any]) -> None:
        if distributed.rank() == 0:
            self.work.log(row)

    def load(self, order: Iterable[list[Address]]) -> DataLoader[Batch]:
        """Batches of these clips, on the CPU."""
        on_gpu = self.accelerator.device.type == "cuda"
        return load_batches(self.recipe, self.datasets, self.processor, order, pin_memory=on_gpu)

    def bar(self) -> Progress:
        """Progress on stderr; tasks have a field `message`."""
        return progress_line(details="{task.fields[message]}", wanted=self.progress and distributed.rank() == 0)
