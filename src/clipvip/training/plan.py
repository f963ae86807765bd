"""What a run would take, estimated from a few of its own steps before it is started."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from clipvip import distributed
from clipvip.data import Address, Batch, steps_per_pass
from clipvip.errors import TrainingError
from clipvip.jobs import usable_cpus
from clipvip.model import NEW_PARAMETERS
from clipvip.training.build import make_sampler
from clipvip.training.config import Recipe
from clipvip.training.launch import check_trackers, run_conditions, start_accelerator
from clipvip.training.memory import USABLE, StepMemory, free_memory, measure, most, ran_out
from clipvip.training.meter import GIB, batch_flops, peak_memory, text_flops, video_flops
from clipvip.training.state import WorkDir
from clipvip.training.step import OmnisourceObjective
from clipvip.training.trainer import Run

TIMED_STEPS = 3
"""Of each source of clips, after one to warm up."""
LOADED_CLIPS = 4
"""Loaded one by one, for the rate of loader processes: a few steps may use only batches that were fetched ahead."""


def plan(recipe: Recipe, *, progress: bool = True) -> dict[str, Any]:
    """What `train` would take, from the first steps it would do; nothing of them is kept, and no tracker is started.

    Returns: things that JSON can hold, in bytes, seconds and floating-point operations.
        recipe: resolved. fits: whether memory held the steps. notes: sentences.
        model: sizes; parameters, of which `new` are those CLIP-ViP adds to CLIP, whether or not `init` has them;
        operations per clip, of the first source that was reached, and of a step with it.
        data: clips, steps, passes over data.train, how a batch is shared among processes, and each source.
        memory: per process; the parts (see `StepMemory`), what they add up to, what is free, the measured peak, and a
        train.micro_batch to choose if the batch does not fit.
        time: of a step, and of all steps without what `not_counted` names; None if the batch does not fit.
    With several processes all take part, and all return it.
    Raises: what `train` raises; TrainingError if memory does not even hold the model and three clips.
    """
    check_trackers(recipe.train.trackers)
    with tempfile.TemporaryDirectory(prefix="clipvip-") as folder:
        accelerator = start_accelerator((), Path(folder))
        with run_conditions(recipe), _memory_errors(accelerator.device):
            free = _free_per_process(accelerator.device)
            return DryRun(Run(recipe, WorkDir(Path(folder)), accelerator, progress), free).report()


@dataclass(slots=True)
class Source:
    """A source of clips; of its first batch T, S and the operations per clip; of its steps (the first is to warm up)
    the seconds, and those of them spent waiting for data.

    memory: None if it was not reached, or has no steps. loading_s: of a batch, at the rate of the loader processes; 0
    if it was not measured.
    """

    data: str
    num_clips: int
    num_steps: int
    num_frames: int = 0
    num_tokens: int = 0
    forward_flops: float = 0.0
    training_flops: float = 0.0
    memory: StepMemory | None = None
    steps: list[tuple[float, float]] = field(default_factory=list)
    loading_s: float = 0.0

    def timed(self) -> list[tuple[float, float]]:
        """The steps that count, fastest first; a run of a single step has none to warm up."""
        return sorted(self.steps[1:] or self.steps)

    def is_slowed_by_loading(self) -> bool:
        """Whether loader processes are slower than the steps that were timed."""
        return bool(self.steps) and self.loading_s > _median(self.timed())[0]

    def expected(self) -> tuple[float, float]:
        """Seconds of a step, and those waiting for data: the median (of two the faster), unless loading takes longer;
        0 if there was none.
        """
        seconds, waiting_s = _median(self.timed()) if self.steps else (0.0, 0.0)
        if self.is_slowed_by_loading():
            return self.loading_s, self.loading_s - seconds + waiting_s
        return seconds, waiting_s


class DryRun:
    """The first steps of each source of `run`, and what they show.

    free: bytes that each process could take before there was a model; None: unknown.
    fits: whether memory held the steps; else they end early. peak: bytes, the most of any process.
    bad_steps: those whose loss or gradient was not finite.
    """

    def __init__(self, run: Run, free: int | None):
        self.run, self.recipe, self.free, self.device = run, run.recipe, free, run.accelerator.device
        self.num_clips = run.recipe.train.batch_size // distributed.world()
        self.at_once = run.micro_batch or self.num_clips
        self.bad_steps: list[int] = []
        data, sampler = run.recipe.data, make_sampler(run.recipe, run.datasets, run.num_steps, run.step)
        names = [data.train, *(source.data for source in data.mix)]
        sizes = zip(names, run.datasets, sampler.steps_of_sources(), strict=True)
        self.sources = [Source(name, len(dataset), num_steps) for name, dataset, num_steps in sizes]
        first = sampler.first_of_each(1 + TIMED_STEPS + 1)
        self.fits = self._do_steps([batches[: 1 + TIMED_STEPS] for batches in first])
        self.peak = max(distributed.exchange(peak_memory(self.device)))
        if self.fits and data.num_workers and not data.cache:
            for source, batches in zip(self.sources, first, strict=True):
                if batches:  # the last was not fetched for the steps, if the run has so many
                    source.loading_s = self._time_loading(batches[-1])

    def _do_steps(self, first: list[list[list[Address]]]) -> bool:
        """Measure the first batch of each source and do its steps. Returns: whether memory held them."""
        run = self.run
        order = [addresses for batches in first for addresses in batches]
        sources = [source for source, batches in zip(self.sources, first, strict=True) for _ in batches]
        run.meter.read()
        with run.bar() as bar:
            task = bar.add_task("dry run", total=len(order), message="")
            for source, (batch, sizes) in zip(sources, run.batches([], order), strict=True):
                measuring_s = 0.0
                if source.memory is None:
                    start = time.perf_counter()
                    source.memory = self._measure(batch, source)
                    measuring_s = time.perf_counter() - start
                    if self.device.type == "cpu" and self.free is not None and self._total(source.memory) > self.free:
                        return False  # a system out of memory ends any of its processes, with no error to catch
                try:
                    run.update(batch, sizes)
                    bad = int(run.first_bad)  # waits for the device
                except (MemoryError, RuntimeError) as error:
                    if not ran_out(error) or distributed.world() > 1:  # the others wait in a collective
                        raise
                    return False
                run.step += 1
                rates = run.meter.read()
                source.steps.append((rates["seconds"] - measuring_s, rates["data_wait"] * rates["seconds"]))
                bar.update(task, completed=run.step)
                if bad == run.step:
                    self.bad_steps.append(bad)
        return True

    def _measure(self, batch: Batch, source: Source) -> StepMemory:
        """Count and measure; a process that could decode no clip of its share takes the others' figures."""
        run, config = self.run, self.run.model.config
        texts = [texts for texts in (batch.subtitle, batch.caption) if texts is not None]
        images = [images for images in (batch.video, batch.frame) if images is not None]
        source.num_frames = batch.video.shape[1]
        source.num_tokens = max(each.input_ids.shape[1] for each in texts)
        source.forward_flops = sum(video_flops(config, each.shape[1]) for each in images)
        source.forward_flops += len(texts) * text_flops(config, source.num_tokens)
        source.training_flops = batch_flops(config, batch)
        [objective] = (part for part in run.objective.modules() if isinstance(part, OmnisourceObjective))
        own: StepMemory | None = None
        if batch.clip_ids:
            # compiled blocks would be compiled again for two clips and for three
            eager = torch.compiler.set_stance("force_eager") if self.recipe.train.compile else nullcontext()
            with eager:
                own = measure(objective, batch, in_parts=run.micro_batch is not None)
        return most([memory for memory in distributed.exchange(own) if memory is not None])

    def _time_loading(self, addresses: list[Address]) -> float:
        """Seconds per batch at the rate of the loader processes, from a few clips of this one."""
        dataset, spent = self.run.load([addresses]).dataset, []
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in loader processes
        try:
            for address in addresses[: 1 + LOADED_CLIPS]:
                start = time.perf_counter()
                dataset.__getitems__([address])  # type: ignore[attr-defined]
                spent.append(time.perf_counter() - start)
        finally:
            torch.set_num_threads(num_threads)
        clips = spent[1:] or spent  # the first one sets things up
        at_work = max(1, min(self.recipe.data.num_workers, usable_cpus() // _processes_here()))
        return statistics.mean(clips) * len(addresses) / at_work

    def report(self) -> dict[str, Any]:
        """See `plan`."""
        run, config = self.run, self.run.model.config
        batch_size, main = self.recipe.train.batch_size, self.sources[0]
        per_pass = steps_per_pass(main.num_clips, batch_size, keep_last=self.recipe.data.last_batch == "keep")
        counts = {name: parameter.numel() for name, parameter in run.model.named_parameters()}
        new = sum(count for name, count in counts.items() if name.startswith(NEW_PARAMETERS))
        first = next(source for source in self.sources if source.memory is not None)
        memory, size = self._largest(), None if self.fits else self._size_that_fits()
        model = {
            "aggregator": config.aggregator,
            "num_frames": self.recipe.model.num_frames,
            "image_size": config.vision.image_size,
            "patch_size": config.vision.patch_size,
            "num_proxies": 1 + config.num_added_proxies,
            "parameters": {"total": sum(counts.values()), "new": new},
            "flops": {
                "forward_per_clip": first.forward_flops,
                "training_per_clip": first.training_flops,
                "training_per_step": first.training_flops * batch_size,
            },
        }
        data = {
            "num_clips": run.num_clips,
            "num_steps": run.num_steps,
            "num_passes": round(main.num_steps / per_pass, 2),
            "batch_size": batch_size,
            "num_processes": distributed.world(),
            "clips_per_process": self.num_clips,
            "micro_batch": run.micro_batch,
            "sources": [
                {
                    "data": source.data,
                    "num_clips": source.num_clips,
                    "num_steps": source.num_steps,
                    "num_frames": source.num_frames,
                    "num_tokens": source.num_tokens,
                    "training_flops_per_clip": source.training_flops,
                    "step_s": source.expected()[0] or None,
                }
                for source in self.sources
            ],
        }
        return {
            "recipe": json.loads(self.recipe.model_dump_json()),
            "model": model,
            "data": data,
            "memory": {
                "device": _name(self.device),
                "fixed": memory.fixed,
                "per_clip": memory.per_clip,
                "estimate": self._total(memory),
                "free": self.free,
                "peak": self.peak,
                "advised_micro_batch": size,
            },
            "time": self._report_time() if self.fits else None,
            "fits": self.fits,
            "notes": list(self._notes(size)),
        }

    def _report_time(self) -> dict[str, Any]:
        """Sources take turns, so figures of a step are the mean over all steps of the run."""
        run, schedule = self.run, self.run.schedule
        run_s = sum(source.num_steps * source.expected()[0] for source in self.sources)
        waiting_s = sum(source.num_steps * source.expected()[1] for source in self.sources)
        flops = self.num_clips * sum(source.num_steps * source.training_flops for source in self.sources)
        return {
            "num_timed": sum(len(source.timed()) for source in self.sources),
            "step_s": run_s / run.num_steps,
            "clips_per_s": self.recipe.train.batch_size * run.num_steps / run_s,
            "data_wait": waiting_s / run_s,
            "mfu": flops / run.meter.peak / run_s,
            "run_s": run_s,
            "not_counted": {
                "validations": 0 if run.val is None else schedule.count("evaluate"),
                "validation_clips": 0 if run.val is None else len(run.val),
                "checkpoints": schedule.count("save"),
                "snapshots": schedule.count("snapshot"),
            },
        }

    def _notes(self, size: int | None) -> Iterator[str]:
        data = self.recipe.data
        if not self.fits:
            yield self._advise(size)
        for step in self.bad_steps:
            yield f"step {step}: the loss or its gradient is not finite; a run would stop there"
        for clip_id, reason in self.run.skipped.items():
            yield f"{clip_id} is left out: {reason}"
        if self.recipe.train.compile:
            yield "activations are measured without torch.compile, which keeps less of them"
        if any(len(source.steps) == 1 for source in self.sources):
            yield "a source has only one step: its time includes the warm-up"
        if any(source.is_slowed_by_loading() for source in self.sources):
            yield (
                f"the time is what {data.num_workers} loader processes take to load, the steps themselves are faster: "
                "see data.num_workers, model.resize_in=decoder and `clipvip data shard`"
            )
        if data.cache:
            yield "the time is that of the first pass over the clips; with data.cache later ones load faster"

    def _advise(self, size: int | None) -> str:
        total = self._total(self._largest()) / GIB
        message = f"does not fit: {self.at_once} clips at once take about {total:.2f} GiB"
        if self.free is None:
            return f"{message}; try a train.micro_batch below {self.at_once}"
        message += f", {self.free / GIB:.2f} GiB are free"
        if size is None:
            way_out = "set train.activation_checkpointing=true or take a smaller model"
            return f"{message}; smaller parts do not fit either: {way_out}"
        total = self._largest().in_parts().total(self.num_clips, size) / GIB
        return f"{message}; train.micro_batch={size} takes about {total:.2f} GiB"

    def _size_that_fits(self) -> int | None:
        if self.free is None:
            return None
        return self._largest().in_parts().largest(self.num_clips, self.at_once, USABLE[self.device.type] * self.free)

    def _largest(self) -> StepMemory:
        return max((source.memory for source in self.sources if source.memory is not None), key=self._total)

    def _total(self, memory: StepMemory) -> int:
        return memory.total(self.num_clips, self.at_once)


def _free_per_process(device: torch.device) -> int | None:
    """Bytes that each process of this machine may take: on CPUs they share; of several machines the least."""
    found = distributed.exchange(free_memory(device))
    known = [free for free in found if free is not None]
    return min(known) // (_processes_here() if device.type == "cpu" else 1) if len(known) == len(found) else None


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _median(ordered: list[tuple[float, float]]) -> tuple[float, float]:
    return ordered[(len(ordered) - 1) // 2]


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def _memory_errors(device: torch.device) -> Iterator[None]:
    """Raises: TrainingError where an allocation failed."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise TrainingError(
            f"{_name(device)}: its memory does not hold the model and three clips; take a smaller model or fewer frames"
        ) from error
