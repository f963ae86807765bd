"""What a training step takes of memory: counted for the weights, measured on a few clips for the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from clipvip.data import Batch
from clipvip.model.modeling_clipvip import Block
from clipvip.training.step import OmnisourceObjective

USABLE = {"cuda": 0.9, "cpu": 0.7}
"""Share of a device's free memory to plan with: allocators leave gaps, and a system's gives little back."""


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes of one process in a training step.

    weights, gradients, optimizer: whatever the batch; gradients twice where those of parts are added up.
    cast: what autograd keeps whatever the batch, such as weights in another precision.
    activations: a clip, what autograd keeps. recomputed: a clip, what activation checkpointing makes again of a block.
    pixels: a clip, its pictures in float32 where they come as bytes. inputs: a clip, as it is loaded.
    """

    weights: int
    gradients: int
    optimizer: int
    cast: int
    activations: int
    recomputed: int
    pixels: int
    inputs: int

    def total(self, num_clips: int, at_once: int) -> int:
        """Of a batch of `num_clips`, `at_once` of them computed with: tensors, not what an allocator wastes."""
        fixed = self.weights + self.gradients + self.optimizer + self.cast
        return fixed + num_clips * self.inputs + at_once * (self.activations + self.recomputed + self.pixels)

    def largest(self, num_clips: int, below: int, usable: float) -> int | None:
        """The largest power of two below `below` that may be computed with at once in `usable` bytes, or None."""
        fitting = (2**power for power in reversed(range((below - 1).bit_length())))
        return next((size for size in fitting if self.total(num_clips, size) <= usable), None)


def most(parts: list[StepMemory]) -> StepMemory:
    """The largest of each figure: over sources of clips, or processes."""
    return StepMemory(**{field.name: max(getattr(part, field.name) for part in parts) for field in fields(StepMemory)})


def measure(objective: OmnisourceObjective, batch: Batch, *, in_parts: bool) -> StepMemory:
    """Of the step that `objective` takes with such a batch: forward passes with its first clip, two and three times.

    in_parts: with gradient caching.
    """
    clip, *few = (_copies(batch, count) for count in (1, 2, 3))  # one clip has views where others have copies
    of_two, of_three = (_kept(objective, clips) for clips in few)
    activations, recomputed = of_three.all - of_two.all, 0
    if any(block.gradient_checkpointing for block in _blocks(objective)):
        with _without_checkpointing(objective):
            in_two, in_three = (_kept(objective, clips).block for clips in few)
        recomputed = in_three - in_two
    as_bytes = [
        pictures for pictures in (clip.video, clip.frame) if pictures is not None and not pictures.is_floating_point()
    ]
    parameters = list(objective.model.parameters())
    trained = sum(parameter.nbytes for parameter in parameters if parameter.requires_grad)
    return StepMemory(
        weights=sum(parameter.nbytes for parameter in parameters),
        gradients=trained * (2 if in_parts else 1),
        optimizer=2 * trained,  # AdamW's two moments
        cast=max(of_two.all - 2 * activations, 0),
        activations=activations,
        recomputed=recomputed,
        pixels=sum(4 * pictures.numel() for pictures in as_bytes),
        inputs=sum(tensor.nbytes for tensor in _tensors(clip)),
    )


def free_memory(device: torch.device) -> int | None:
    """Bytes that a new process could have there; None where nobody knows."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # counts what the system would give back
            figures = dict(line.split(":") for line in file)
        return 1024 * int(figures["MemAvailable"].split()[0])
    except (OSError, KeyError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def ran_out(error: BaseException) -> bool:
    """Whether an allocation failed."""
    told = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in told or "allocate memory" in told)
    )


@dataclass(slots=True)
class _Kept:
    """Bytes of the distinct storages that autograd keeps: of all, and of the block that keeps most."""

    all: int = 0
    block: int = 0


def _kept(objective: OmnisourceObjective, batch: Batch) -> _Kept:
    """Of the features of a batch; parameters and the batch itself, which are there anyway, are not counted."""
    known = {_pointer(tensor) for tensor in (*objective.model.parameters(), *_tensors(batch))}
    kept, entered = _Kept(), 0

    def keep(tensor: Tensor) -> Tensor:
        pointer = _pointer(tensor)
        if pointer not in known:
            known.add(pointer)
            kept.all += tensor.untyped_storage().nbytes()
        return tensor

    def enter(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal entered
        entered = kept.all

    def leave(*_: Any) -> None:
        kept.block = max(kept.block, kept.all - entered)

    hooks = [
        hook
        for block in _blocks(objective)
        for hook in (block.register_forward_pre_hook(enter), block.register_forward_hook(leave))
    ]
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            features = objective.features(batch)  # its graph holds what was counted, so that no address is used twice
        del features
    finally:
        for hook in hooks:
            hook.remove()
    return kept


@contextmanager
def _without_checkpointing(objective: OmnisourceObjective) -> Iterator[None]:
    blocks = [block for block in _blocks(objective) if block.gradient_checkpointing]
    for block in blocks:
        block.gradient_checkpointing = False
    try:
        yield
    finally:
        for block in blocks:
            block.gradient_checkpointing = True


def _blocks(objective: OmnisourceObjective) -> list[Block]:
    return [module for module in objective.modules() if isinstance(module, Block)]


def _copies(batch: Batch, count: int) -> Batch:
    """Its first clip, so many times."""
    clip = batch.parts(1)[0]
    return replace(clip.each(lambda tensor: torch.cat([tensor] * count)), clip_ids=clip.clip_ids * count)


def _tensors(batch: Batch) -> list[Tensor]:
    texts = [texts for texts in (batch.subtitle, batch.caption) if texts is not None]
    pictures = [pictures for pictures in (batch.video, batch.frame) if pictures is not None]
    return pictures + [tensor for each in texts for tensor in (each.input_ids, each.attention_mask, each.valid)]


def _pointer(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
