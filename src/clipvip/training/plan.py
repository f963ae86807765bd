"""What a run would take, told before it is started."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from clipvip import distributed
from clipvip.data import steps_per_pass
from clipvip.errors import TrainingError
from clipvip.model import NEW_PARAMETERS
from clipvip.training.config import Recipe
from clipvip.training.launch import check_trackers, start_accelerator
from clipvip.training.memory import USABLE, StepMemory, ran_out
from clipvip.training.meter import GIB
from clipvip.training.rehearsal import Rehearsal, Source, free_bytes
from clipvip.training.state import WorkDir
from clipvip.training.trainer import Run, run_conditions


def plan(recipe: Recipe, *, progress: bool = True) -> dict[str, Any]:
    """What `train` would take, by the first steps it would do; nothing of them is kept, and no tracker hears of them.

    Returns: things that JSON can hold, in bytes, seconds and floating-point operations.
        recipe: resolved. fits: whether memory held the steps. notes: sentences.
        model: sizes; parameters, of which `new` are those CLIP-ViP adds to CLIP, be they in `init` already or not;
        operations a clip, of the first source that was reached, and of a step with it.
        data: clips, steps, passes over data.train, how a batch is shared out, and each source.
        memory: of a process; the parts (see `StepMemory`), what they add up to, what is free, the measured peak, and a
        train.micro_batch to choose if the batch does not fit.
        time: of a step, and of all steps without what `not_counted` names; None if the batch does not fit.
    With several processes all take part, and all get it.
    Raises: what `train` raises; TrainingError if memory does not even hold the model and three clips.
    """
    check_trackers(recipe.train.trackers)
    with tempfile.TemporaryDirectory(prefix="clipvip-") as folder:
        accelerator = start_accelerator((), Path(folder))
        with run_conditions(recipe), _memory_error(accelerator.device):
            free = free_bytes(accelerator.device)
            return _report(Rehearsal(Run(recipe, WorkDir(Path(folder)), accelerator, progress), free))


def _report(seen: Rehearsal) -> dict[str, Any]:
    recipe = seen.run.recipe
    return {
        "recipe": json.loads(recipe.model_dump_json()),
        "model": _model(seen),
        "data": _data(seen),
        "memory": _memory(seen),
        "time": _time(seen) if seen.fits else None,
        "fits": seen.fits,
        "notes": list(_notes(seen)),
    }


def _model(seen: Rehearsal) -> dict[str, Any]:
    config, recipe = seen.run.model.config, seen.run.recipe
    counts = {name: parameter.numel() for name, parameter in seen.run.model.named_parameters()}
    first = next(source for source in seen.sources if source.memory is not None)
    return {
        "aggregator": config.aggregator,
        "num_frames": recipe.model.num_frames,
        "image_size": config.vision.image_size,
        "patch_size": config.vision.patch_size,
        "num_proxies": 1 + config.num_added_proxies,
        "parameters": {
            "total": sum(counts.values()),
            "new": sum(count for name, count in counts.items() if name.startswith(NEW_PARAMETERS)),
        },
        "flops": {
            "forward_per_clip": first.forward_flops,
            "training_per_clip": first.training_flops,
            "training_per_step": first.training_flops * recipe.train.batch_size,
        },
    }


def _data(seen: Rehearsal) -> dict[str, Any]:
    run, batch_size, main = seen.run, seen.run.recipe.train.batch_size, seen.sources[0]
    keep_last = run.recipe.data.last_batch == "keep"
    return {
        "num_clips": run.num_clips,
        "num_steps": run.num_steps,
        "num_passes": round(main.num_steps / steps_per_pass(main.num_clips, batch_size, keep_last=keep_last), 2),
        "batch_size": batch_size,
        "num_processes": distributed.world(),
        "clips_per_process": seen.num_clips,
        "micro_batch": run.micro_batch,
        "sources": [_source(source) for source in seen.sources],
    }


def _source(source: Source) -> dict[str, Any]:
    step = source.expected()
    return {
        "data": source.data,
        "num_clips": source.num_clips,
        "num_steps": source.num_steps,
        "num_frames": source.num_frames,
        "num_tokens": source.num_tokens,
        "training_flops_per_clip": source.training_flops,
        "step_s": None if step is None else step.seconds,
    }


def _memory(seen: Rehearsal) -> dict[str, Any]:
    memory = _largest(seen)
    return {
        "device": _name(seen.device),
        "fixed": {name: getattr(memory, name) for name in ("weights", "gradients", "optimizer", "cast")},
        "per_clip": {name: getattr(memory, name) for name in ("activations", "recomputed", "pixels", "inputs")},
        "estimate": seen.total(memory),
        "free": seen.free,
        "peak": seen.peak,
        "advised_micro_batch": None if seen.fits else _size_that_fits(seen),
    }


def _time(seen: Rehearsal) -> dict[str, Any]:
    """Sources take turns, so that what is told of a step is the mean over all steps of the run."""
    run, train = seen.run, seen.run.recipe.train
    expected = [(source.num_steps, step) for source in seen.sources if (step := source.expected()) is not None]
    run_s = sum(count * step.seconds for count, step in expected)

    def share(of_seconds: float) -> float:
        return of_seconds / run_s

    return {
        "num_timed": sum(len(source.timed()) for source in seen.sources),
        "step_s": run_s / run.num_steps,
        "clips_per_s": share(train.batch_size * run.num_steps),
        "data_wait": share(sum(count * step.seconds * step.data_wait for count, step in expected)),
        "mfu": share(sum(count * step.seconds * step.flops_per_s for count, step in expected) / run.meter.peak),
        "run_s": run_s,
        "not_counted": {
            "validations": 0 if run.val is None else _times(run.num_steps, train.eval_every or run.num_steps),
            "validation_clips": 0 if run.val is None else len(run.val),
            "checkpoints": _times(run.num_steps, train.save_every),
            "snapshots": _times(run.num_steps, train.snapshot_every) if train.snapshot_every else 0,
        },
    }


def _notes(seen: Rehearsal) -> Iterator[str]:
    run, data = seen.run, seen.run.recipe.data
    if not seen.fits:
        yield _way_out(seen)
    for step in seen.bad_steps:
        yield f"step {step}: the loss or its gradient is not finite; a run would stop there"
    for clip_id, reason in run.skipped.reasons.items():
        yield f"{clip_id} is left out: {reason}"
    if run.recipe.train.compile:
        yield "activations are measured without torch.compile, which keeps less of them"
    if any(len(source.steps) == 1 for source in seen.sources):
        yield "there is but one step of a source: its time is that of the warm-up too"
    if any(source.waits_for_loaders() for source in seen.sources):
        yield (
            f"the time is what {data.num_workers} loader processes take to load, the steps themselves are faster: see "
            "data.num_workers, model.resize_in=decoder and `clipvip data shard`"
        )
    if data.cache:
        yield "the time is that of the first pass over the clips; with data.cache later ones load faster"


def _way_out(seen: Rehearsal) -> str:
    told = f"does not fit: {seen.at_once} clips at once take about {seen.total(_largest(seen)) / GIB:.2f} GiB"
    if seen.free is None:
        return f"{told}; try a train.micro_batch below {seen.at_once}"
    told += f", {seen.free / GIB:.2f} GiB are free"
    size = _size_that_fits(seen)
    if size is None:
        return f"{told}; smaller parts do not fit either: take train.activation_checkpointing=true or a smaller model"
    return f"{told}; train.micro_batch={size} takes about {_in_parts(seen).total(seen.num_clips, size) / GIB:.2f} GiB"


def _size_that_fits(seen: Rehearsal) -> int | None:
    if seen.free is None:
        return None
    return _in_parts(seen).largest(seen.num_clips, seen.at_once, USABLE[seen.device.type] * seen.free)


def _in_parts(seen: Rehearsal) -> StepMemory:
    memory = _largest(seen)
    return replace(memory, gradients=memory.optimizer)  # two sets, as the optimiser has two moments


def _largest(seen: Rehearsal) -> StepMemory:
    """Of the source whose steps take most."""
    return max((source.memory for source in seen.sources if source.memory is not None), key=seen.total)


def _times(num_steps: int, every: int) -> int:
    """How often something is done every so many steps and after the last."""
    return -(-num_steps // every)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def _memory_error(device: torch.device) -> Iterator[None]:
    """Raises: TrainingError where an allocation failed."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise TrainingError(
            f"{_name(device)}: its memory does not hold the model and three clips; take a smaller model or fewer frames"
        ) from error
