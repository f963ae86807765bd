"""The one trainer: warm start, post-pre-training and fine-tuning differ only in their recipe.

Over several processes every one runs this same code on its share of each batch; the main one writes.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.markup import escape
from rich.progress import Progress
from torch.utils.data import DataLoader

from clipvip import distributed
from clipvip.data import Address, Batch, Collator, PassSampler, fetched, make_loader, read_manifest
from clipvip.encode import DistributedEncoder, Encoder
from clipvip.errors import ClipVipError, Interrupted, TrainingError, VideoDecodeError
from clipvip.evaluation import retrieval_metrics, run_retrieval, twin_accuracy
from clipvip.model import MAX_LOGIT_SCALE, optimize_for_training
from clipvip.model.flops import training_flops
from clipvip.model.kernels import compile_blocks
from clipvip.model.kernels.products import warn_of_slow_bfloat16
from clipvip.progress import progress_line
from clipvip.training.build import build_model
from clipvip.training.config import Recipe
from clipvip.training.launch import check_same_weights, start_accelerator, start_trackers
from clipvip.training.memory import ran_out
from clipvip.training.meter import Meter
from clipvip.training.optim import freeze_text, lr_factor, make_optimizer, set_lr
from clipvip.training.signals import signals_noted
from clipvip.training.sources import Skipped, make_datasets, number_of_steps, usual_duration_s
from clipvip.training.state import WorkDir
from clipvip.training.step import OmnisourceObjective


def train(recipe: Recipe, workdir: Path, *, progress: bool = True) -> dict[str, Any]:
    """Run a recipe in `workdir`, going on where an interrupted run of the same recipe stopped.

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


@contextmanager
def run_conditions(recipe: Recipe) -> Iterator[None]:
    """What holds while a run computes: its precision of float32 products, and one line for what goes wrong around it.

    Raises: TrainingError if memory runs out or another process is lost.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(recipe.train.float32_matmul)
    try:
        yield
    except RuntimeError as error:
        if ran_out(error):
            raise TrainingError(
                f"out of memory ({str(error).splitlines()[0]}); take a smaller train.micro_batch, or "
                "train.activation_checkpointing=true; clipvip train ... --dry-run tells what fits"
            ) from error
        if not distributed.is_loss(error):
            raise
        problem = TrainingError("another process of this run ended; its message, or the launcher's, says why")
        problem.repeated = True
        raise problem from error
    finally:
        torch.set_float32_matmul_precision(before)


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
        self.step, self.seconds = 0, 0.0
        self.best: float | None = None  # validation R@1
        self.asked = 0  # by this signal to end
        self.skipped = Skipped(data, self.num_clips, {})
        self._resume()
        check_same_weights(self.model, self.step)
        share = train.batch_size // distributed.world()
        self.micro_batch = train.micro_batch if train.micro_batch and train.micro_batch < share else None
        bfloat16 = train.precision == "bfloat16"
        objective = OmnisourceObjective(self.model, recipe.loss, self.processor.frames_to_pixels, autocast=bfloat16)
        self.objective = objective if self.micro_batch else accelerator.prepare_model(objective)
        self.meter = Meter(accelerator.device, torch.bfloat16 if bfloat16 else torch.float32)
        self.first_bad = torch.zeros((), dtype=torch.int64, device=accelerator.device)  # step of a NaN; 0: none so far
        self.recent: dict[int, tuple[str, ...]] = {}  # clips of the steps that were not looked at yet

    def go(self) -> dict[str, Any]:
        """Fetch, step, log, save, evaluate."""
        train = self.recipe.train
        with self.bar() as bar, signals_noted() as noted:
            task = bar.add_task(escape(self.work.path.name), total=self.num_steps, completed=self.step, told="")
            for batch, sizes in self.batches(noted):
                loss, norm = self.update(batch, sizes)
                self.step += 1
                last = self.step == self.num_steps
                every = (train.log_every, train.eval_every or self.num_steps, train.save_every, train.snapshot_every)
                log, evaluate, save, snapshot = (n is not None and (last or self.step % n == 0) for n in every)
                if log or evaluate or save or snapshot:
                    self._check_finite()
                if log:
                    bar.update(task, told=self._log_step(loss, norm))
                bar.update(task, completed=self.step)
                with self.meter.paused():
                    best = evaluate and self._validate()
                    if snapshot:
                        distributed.on_main(lambda: self.work.save_snapshot(self.step, self.model, self.processor))
                    if save or best:  # a run that resumes must know the score of the best model that is there
                        self._save()
        if self.step < self.num_steps:
            self._check_finite()
            self._save()
            signal.raise_signal(self.asked)  # now for what it does by itself
            raise Interrupted(self.asked)
        return self._finish()

    def batches(
        self, noted: list[int], order: Iterable[list[Address]] | None = None
    ) -> Iterator[tuple[Batch, list[int]]]:
        """This process's share of each step's batch, on its device, and the number of clips in every process's share.

        order: the clips of this process's shares; None: all that are to come. They end early, with the signal in
        `asked`, if any process was asked to end.
        Raises: VideoDecodeError, TrainingError if clips that cannot be decoded, of any process, forbid to go on.
        """
        mine = fetched(self.loader(self.sampler() if order is None else order), noted)
        for step in range(self.step + 1, self.num_steps + 1):
            with self.meter.waiting():
                batch = next(mine, None)
            told = ((), ()) if batch is None else (batch.clip_ids, batch.failures)
            everyone = distributed.exchange((*told, noted[0] if noted else 0))
            self.asked = max(signum for *_, signum in everyone)
            if self.asked or batch is None:
                return
            failures = [failure for _, some, _ in everyone for failure in some]
            sizes = [len(clip_ids) for clip_ids, *_ in everyone]
            try:
                self._note_failures(failures, step)
                if not any(sizes):
                    raise VideoDecodeError(f"not one clip of a batch can be decoded; the first: {failures[0][1]}")
            except ClipVipError as error:
                raise distributed.said_once(error) from None
            self.recent[step] = tuple(clip_id for clip_ids, *_ in everyone for clip_id in clip_ids)
            yield batch.to(self.accelerator.device), sizes

    def update(self, batch: Batch, sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step; loss and gradient norm stay on the device."""
        optim = self.recipe.optim
        set_lr(self.optimizer, lr_factor(self.step + 1, self.num_steps, optim.warmup_ratio))
        self.optimizer.zero_grad()
        with self._compiling():
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
        self.meter.add(sum(sizes), len(batch.clip_ids) * self.flops_of_clip(batch))
        return loss.detach(), norm

    def flops_of_clip(self, batch: Batch) -> float:
        """Operations of a step for each clip of such a batch (see `model.flops`)."""
        caption = batch.caption
        num_tokens = max(texts.input_ids.shape[1] for texts in (batch.subtitle, caption) if texts is not None)
        return training_flops(
            self.model.config, batch.video.shape[1], num_tokens,
            frame=batch.frame is not None, caption=caption is not None,
        )  # fmt: skip

    @contextmanager
    def _compiling(self) -> Iterator[None]:
        """Raises: TrainingError if torch.compile was asked for and cannot."""
        if not self.recipe.train.compile:
            yield
            return
        from torch._dynamo.exc import TorchDynamoException  # heavy, and only compiled runs have it loaded anyway

        try:
            yield
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(
                f"train.compile=true: {reason}; install a C++ compiler, or set train.compile=false"
            ) from error

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
        told = f"loss {row['loss']:.3f}  lr {row['lr']:.1e}  {rates['clips_per_s']:.0f} clips/s"
        return told + (f"  {rates['data_wait']:.0%} waiting for data" if rates["data_wait"] > 0.05 else "")

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
            self.skipped.reasons |= state["skipped"]

    def _save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "skipped": self.skipped.reasons,
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
            "skipped": self.skipped.reasons,
        }
        source = self.work.best if summary["selected"] == "best" else None
        distributed.on_main(lambda: self.work.finish(summary, source))
        for tracker in self.accelerator.trackers:
            tracker.finish()
        return summary

    def sampler(self) -> PassSampler:
        """The clips of this process's share of each step to come."""
        train = self.recipe.train
        return PassSampler(
            self.datasets, train.batch_size, self.num_steps, seed=train.seed, start_step=self.step,
            shares=[source.share for source in self.recipe.data.mix],
            rank=distributed.rank(), world=distributed.world(), keep_last=self.recipe.data.last_batch == "keep",
        )  # fmt: skip

    def loader(self, order: Iterable[list[Address]]) -> DataLoader[Batch]:
        """Batches of these clips, on the CPU."""
        processor = self.processor
        collator = Collator(
            processor.tokenize, processor.frames_to_pixels, processor.image_size, processor.resize,
            self.datasets[0].sources,
        )  # fmt: skip
        return make_loader(
            self.datasets, order, collator, num_workers=self.recipe.data.num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )  # fmt: skip

    def _note_failures(self, failures: list[tuple[str, str]], step: int) -> None:
        new = self.skipped.add(failures)
        if new and distributed.rank() == 0:
            for clip_id, reason in new.items():
                self.work.log({"step": step, "skipped": clip_id, "reason": reason})
            self.work.write_bad_clips(self.skipped.reasons)
        if new:
            self.skipped.check_share()

    def _record(self, row: dict[str, Any]) -> None:
        self._log({"step": self.step, **row})
        self.accelerator.log(row, step=self.step)

    def _log(self, row: dict[str, Any]) -> None:
        if distributed.rank() == 0:
            self.work.log(row)

    def bar(self) -> Progress:
        """What a person sees of the run, on stderr; tasks have a field `told`."""
        return progress_line(details="{task.fields[told]}", wanted=self.progress and distributed.rank() == 0)
