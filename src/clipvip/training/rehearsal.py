"""A few of a run's own steps, timed and measured: what `plan` tells of the run comes from them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

from clipvip import distributed
from clipvip.data import Address, Batch
from clipvip.jobs import usable_cpus
from clipvip.model.flops import text_flops, video_flops
from clipvip.training.memory import StepMemory, free_memory, measure, most, ran_out
from clipvip.training.meter import peak_memory
from clipvip.training.step import OmnisourceObjective
from clipvip.training.trainer import Run

TIMED_STEPS = 3
"""Of each source of clips, after one to warm up."""
LOADED_CLIPS = 4
"""Loaded one by one, for the pace of loader processes: a few steps may live on batches fetched ahead."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step's time, the share of it waited for data, and the operations a second of this process."""

    seconds: float
    data_wait: float
    flops_per_s: float


@dataclass(slots=True)
class Source:
    """A source of clips; of its first batch T, S and the operations a clip; its steps, the first to warm up."""

    data: str
    num_clips: int
    num_steps: int
    num_frames: int = 0
    num_tokens: int = 0
    forward_flops: float = 0.0
    training_flops: float = 0.0
    memory: StepMemory | None = None  # None: not reached, or there are no steps of it
    steps: list[Step] = field(default_factory=list)
    loading_s: float = 0.0  # a batch, at the pace of the loader processes; 0: the steps say all

    def timed(self) -> list[Step]:
        """The steps that count, fastest first; a run of a single step has none to warm up."""
        return sorted(self.steps[1:] or self.steps, key=lambda step: step.seconds)

    def waits_for_loaders(self) -> bool:
        """Whether loader processes will not keep up with the steps that were timed."""
        timed = self.timed()
        return bool(timed) and self.loading_s > _median(timed).seconds

    def expected(self) -> Step | None:
        """The step to expect: the median, unless loading takes longer; None if there was none."""
        timed = self.timed()
        if not timed:
            return None
        step = _median(timed)
        if not self.waits_for_loaders():
            return step
        slower = step.seconds / self.loading_s
        return Step(self.loading_s, 1 - slower * (1 - step.data_wait), slower * step.flops_per_s)


class Rehearsal:
    """The first steps of each source of `run`, taken here, and what they showed.

    free: bytes that each process of this machine could take before there was a model; None: unknown.
    fits: whether memory held the steps; else they end early. peak: bytes, the most of any process.
    bad_steps: those whose loss or gradient was not finite.
    """

    def __init__(self, run: Run, free: int | None):
        self.run, self.free, self.device = run, free, run.accelerator.device
        self.num_clips = run.recipe.train.batch_size // distributed.world()
        self.at_once = run.micro_batch or self.num_clips
        self.bad_steps: list[int] = []
        data, sampler = run.recipe.data, run.sampler()
        names = [data.train, *(source.data for source in data.mix)]
        self.sources = [
            Source(name, len(dataset), num_steps)
            for name, dataset, num_steps in zip(names, run.datasets, sampler.steps_of_sources(), strict=True)
        ]
        first = sampler.first_of_each(1 + TIMED_STEPS + 1)
        self.fits = self._take_steps([batches[: 1 + TIMED_STEPS] for batches in first])
        self.peak = max(distributed.exchange(peak_memory(self.device)))
        if self.fits and data.num_workers and not data.cache:
            for source, batches in zip(self.sources, first, strict=True):
                if batches:  # the last was not fetched for the steps, if the run has so many
                    source.loading_s = self._loading_s(batches[-1])

    def total(self, memory: StepMemory) -> int:
        """Bytes of a step of this run."""
        return memory.total(self.num_clips, self.at_once)

    def _take_steps(self, first: Sequence[list[list[Address]]]) -> bool:
        """Measure the first batch of each source and do its steps. Returns: whether memory held them."""
        run = self.run
        order = [addresses for batches in first for addresses in batches]
        sources = [source for source, batches in zip(self.sources, first, strict=True) for _ in batches]
        run.meter.read()
        with run.bar() as bar:
            task = bar.add_task("dry run", total=len(order), told="")
            for source, (batch, sizes) in zip(sources, run.batches([], order), strict=True):
                measuring_s = 0.0
                if source.memory is None:
                    start = time.perf_counter()
                    source.memory = self._look_at(batch, source)
                    measuring_s = time.perf_counter() - start
                    if self.device.type == "cpu" and self.free is not None and self.total(source.memory) > self.free:
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
                seconds = rates["seconds"] - measuring_s
                flops = len(batch.clip_ids) * source.training_flops
                source.steps.append(Step(seconds, rates["data_wait"] * rates["seconds"] / seconds, flops / seconds))
                bar.update(task, completed=run.step)
                if bad == run.step:
                    self.bad_steps.append(bad)
        return True

    def _look_at(self, batch: Batch, source: Source) -> StepMemory:
        """Count and measure; where nothing of a share could be decoded, the other processes' figures serve."""
        run, config = self.run, self.run.model.config
        texts = [texts for texts in (batch.subtitle, batch.caption) if texts is not None]
        pictures = [pictures for pictures in (batch.video, batch.frame) if pictures is not None]
        source.num_frames = batch.video.shape[1]
        source.num_tokens = max(each.input_ids.shape[1] for each in texts)
        source.forward_flops = sum(video_flops(config, each.shape[1]) for each in pictures)
        source.forward_flops += len(texts) * text_flops(config, source.num_tokens)
        source.training_flops = run.flops_of_clip(batch)
        [objective] = (part for part in run.objective.modules() if isinstance(part, OmnisourceObjective))
        own: StepMemory | None = None
        if batch.clip_ids:
            # compiled blocks would be compiled anew for two clips and for three
            eager = torch.compiler.set_stance("force_eager") if run.recipe.train.compile else nullcontext()
            with eager:
                own = measure(objective, batch, in_parts=run.micro_batch is not None)
        return most([memory for memory in distributed.exchange(own) if memory is not None])

    def _loading_s(self, addresses: list[Address]) -> float:
        """Seconds a batch at the pace of the loader processes, from a few clips of this one."""
        loader = self.run.loader([addresses])
        spent = []
        with _one_thread():
            for address in addresses[: 1 + LOADED_CLIPS]:
                start = time.perf_counter()
                loader.collate_fn([loader.dataset[address]])
                spent.append(time.perf_counter() - start)
        clips = spent[1:] or spent  # the first finds nothing set up
        at_work = max(1, min(self.run.recipe.data.num_workers, usable_cpus() // _processes_here()))
        return sum(clips) / len(clips) * len(addresses) / at_work


def free_bytes(device: torch.device) -> int | None:
    """What each process of this machine may take: on CPUs they share; of several machines the least."""
    found = distributed.exchange(free_memory(device))
    known = [free for free in found if free is not None]
    return min(known) // (_processes_here() if device.type == "cpu" else 1) if len(known) == len(found) else None


def _median(ordered: Sequence[Step]) -> Step:
    """The middle one; of two, the faster."""
    return ordered[(len(ordered) - 1) // 2]


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def _one_thread() -> Iterator[None]:
    """As torch has it in loader processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
