"""How much memory a training step takes: counted for the weights, measured on a few clips for the rest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from clipvip.data import Batch
from clipvip.model.modeling_clipvip import Block
from clipvip.training.step import OmnisourceObjective

USABLE = {"cuda": 0.9, "cpu": 0.7}
"""Share of a device's free memory to plan with: allocators leave gaps, and a system's gives little back."""


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes of one process in a training step.

    fixed: "weights"; "gradients", twice where those of parts are added up; "optimizer"; "cast", what autograd keeps
    whatever the batch, such as weights in another precision.
    per_clip: "activations", what autograd keeps; "recomputed", what activation checkpointing computes again of a
    block; "pixels", its images in float32 where they are loaded as bytes; "inputs", as it is loaded.
    """

    fixed: dict[str, int]
    per_clip: dict[str, int]

    def total(self, num_clips: int, at_once: int) -> int:
        """Of a batch of `num_clips`, `at_once` of them computed with: tensors, not what an allocator wastes."""
        inputs, of_clip = self.per_clip["inputs"], sum(self.per_clip.values())
        return sum(self.fixed.values()) + num_clips * inputs + at_once * (of_clip - inputs)

    def largest(self, num_clips: int, below: int, usable: float) -> int | None:
        """The largest power of two below `below` that may be computed with at once in `usable` bytes, or None."""
        sizes = (2**power for power in reversed(range((below - 1).bit_length())))
        return next((size for size in sizes if self.total(num_clips, size) <= usable), None)

    def in_parts(self) -> StepMemory:
        """The same with gradient caching: two sets of gradients, as the optimizer has two moments."""
        return StepMemory(self.fixed | {"gradients": self.fixed["optimizer"]}, self.per_clip)


def most(parts: Sequence[StepMemory]) -> StepMemory:
    """The largest of each figure."""
    fixed = {name: max(part.fixed[name] for part in parts) for name in parts[0].fixed}
    return StepMemory(fixed, {name: max(part.per_clip[name] for part in parts) for name in parts[0].per_clip})


def measure(objective: OmnisourceObjective, batch: Batch, *, in_parts: bool) -> StepMemory:
    """Of the step that `objective` takes with such a batch: forward passes with its first clip, two and three times.

    in_parts: with gradient caching.
    """
    clip, two, three = (_copies(batch, count) for count in (1, 2, 3))  # one clip has views where others have copies
    of_two = _kept_bytes(objective, two)[0]
    activations, recomputed = _kept_bytes(objective, three)[0] - of_two, 0
    checkpointed = [block for block in _blocks(objective) if block.gradient_checkpointing]
    if checkpointed:
        _set_checkpointing(checkpointed, False)
        try:
            recomputed = _kept_bytes(objective, three)[1] - _kept_bytes(objective, two)[1]
        finally:
            _set_checkpointing(checkpointed, True)
    as_bytes = [images for images in (clip.video, clip.frame) if images is not None and not images.is_floating_point()]
    parameters = list(objective.model.parameters())
    trained = sum(parameter.nbytes for parameter in parameters if parameter.requires_grad)
    return StepMemory(
        fixed={
            "weights": sum(parameter.nbytes for parameter in parameters),
            "gradients": trained * (2 if in_parts else 1),
            "optimizer": 2 * trained,  # AdamW's two moments
            "cast": max(of_two - 2 * activations, 0),
        },
        per_clip={
            "activations": activations,
            "recomputed": recomputed,
            "pixels": sum(4 * images.numel() for images in as_bytes),
            "inputs": sum(tensor.nbytes for tensor in _tensors(clip)),
        },
    )


def free_memory(device: torch.device) -> int | None:
    """Bytes that a new process could have there; None if it is unknown."""
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
    message = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in message or "allocate memory" in message)
    )


def _kept_bytes(objective: OmnisourceObjective, batch: Batch) -> tuple[int, int]:
    """What autograd keeps of the features of a batch, in distinct storages: in all, and of the block that keeps most.

    Parameters and the batch itself, which are there anyway, are not counted.
    """
    known = {_pointer(tensor) for tensor in (*objective.model.parameters(), *_tensors(batch))}
    total = entered = largest = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        if _pointer(tensor) not in known:
            known.add(_pointer(tensor))
            total += tensor.untyped_storage().nbytes()
        return tensor

    def enter(*_: Any) -> None:
        nonlocal entered
        entered = total

    def leave(*_: Any) -> None:
        nonlocal largest
        largest = max(largest, total - entered)

    hooks = [block.register_forward_pre_hook(enter) for block in _blocks(objective)]
    hooks += [block.register_forward_hook(leave) for block in _blocks(objective)]
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            features = objective.features(batch)  # its graph holds what was counted, so that no address is used twice
        del features
    finally:
        for hook in hooks:
            hook.remove()
    return total, largest


def _set_checkpointing(blocks: Sequence[Block], wanted: bool) -> None:
    for block in blocks:
        block.gradient_checkpointing = wanted


def _blocks(objective: OmnisourceObjective) -> list[Block]:
    return [module for module in objective.modules() if isinstance(module, Block)]


def _copies(batch: Batch, count: int) -> Batch:
    """Its first clip, `count` times."""
    clip = batch.parts(1)[0]
    return replace(clip.each(lambda tensor: torch.cat([tensor] * count)), clip_ids=clip.clip_ids * count)


def _tensors(batch: Batch) -> list[Tensor]:
    texts = [texts for texts in (batch.subtitle, batch.caption) if texts is not None]
    images = [images for images in (batch.video, batch.frame) if images is not None]
    return images + [tensor for each in texts for tensor in (each.input_ids, each.attention_mask, each.valid)]


def _pointer(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
