"""What a step keeps in memory, against what autograd and the optimiser really hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clipvip.data.dataset import Batch, TextBatch
from clipvip.model import ClipVipModel, optimize_for_training
from clipvip.model.modeling_clipvip import Block
from clipvip.training.config import LossSection, OptimSection
from clipvip.training.memory import StepMemory, free_memory, measure, ran_out
from clipvip.training.step import OmnisourceObjective, make_optimizer
from clipvip.video.transforms import to_pixel_values
from helpers_golden import golden_config

LAYERS = 4


def objective(autocast: bool = False) -> OmnisourceObjective:
    """Four blocks a tower."""
    config = golden_config()
    sections = {
        name: {**getattr(config, name).to_dict(), "num_hidden_layers": LAYERS}
        for name in ("text_config", "vision_config")
    }
    model = ClipVipModel(golden_config(**sections)).train()
    optimize_for_training(model)
    size = config.vision.image_size
    return OmnisourceObjective(
        model, LossSection(variant="vsc+fc"), lambda frames: to_pixel_values(frames, size), autocast=autocast
    )


def batch_of(model: ClipVipModel, num_clips: int) -> Batch:
    """Black videos of four frames, with both texts."""
    size = model.config.vision.image_size
    ids = torch.full((num_clips, 6), 99)
    texts = TextBatch(ids, torch.ones_like(ids), torch.ones(num_clips, dtype=torch.bool))
    video = torch.zeros(num_clips, 4, size, size, 3, dtype=torch.uint8)
    return Batch(tuple(map(str, range(num_clips))), video, video[:, :1], texts, texts)


def kept(objective: OmnisourceObjective, batch: Batch) -> int:
    """Bytes that autograd holds after a forward pass, parameters and the batch apart, counted once more by hand."""
    held: dict[int, Tensor] = {}

    def hold(tensor: Tensor) -> Tensor:
        held.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        features = objective.features(batch)
    assert features
    given = [batch.video, batch.frame, batch.subtitle.input_ids, *objective.model.parameters()]
    for tensor in given:
        assert tensor is not None
        held.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_activations_grow_with_the_batch(autocast: bool) -> None:
    """Catches an estimate that does not carry over from one clip to many, and weights that were cast for computing
    counted once a clip."""
    ours = objective(autocast)
    memory = measure(ours, batch_of(ours.model, 3), in_parts=False)
    for num_clips in (2, 4, 7):
        seen = kept(ours, batch_of(ours.model, num_clips))
        assert memory.fixed["cast"] + num_clips * memory.per_clip["activations"] == pytest.approx(seen, rel=1e-3)
    assert memory.fixed["cast"] > 0


def test_checkpointing_keeps_less() -> None:
    """Catches the option not measured, or the block that is made again forgotten: the estimate would be far too low."""
    ours = objective()
    batch = batch_of(ours.model, 2)
    plain = measure(ours, batch, in_parts=False)
    ours.model.activation_checkpointing_enable({"use_reentrant": False})
    checkpointed = measure(ours, batch, in_parts=False)
    assert plain.per_clip["recomputed"] == 0
    assert (
        plain.per_clip["activations"] / LAYERS / 2
        < checkpointed.per_clip["recomputed"]
        < plain.per_clip["activations"] / LAYERS * 2
    )
    assert checkpointed.per_clip["activations"] + checkpointed.per_clip["recomputed"] < plain.per_clip["activations"]
    blocks = [module for module in ours.modules() if isinstance(module, Block)]
    assert all(block.gradient_checkpointing for block in blocks)  # and the run goes on as it was
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in blocks)


def test_weights_gradients_and_moments_are_those_of_a_step() -> None:
    """Catches a copy of the weights left out: AdamW has two, gradient caching adds up a second set of gradients."""
    ours = objective()
    batch = batch_of(ours.model, 2)
    memory = measure(ours, batch, in_parts=False)
    optimizer = make_optimizer(ours.model, OptimSection(lr=1e-3))
    ours(batch).backward()
    optimizer.step()
    parameters = list(ours.model.parameters())
    moments = [moment for state in optimizer.state.values() for moment in state.values() if moment.ndim]
    assert memory.fixed["weights"] == sum(parameter.nbytes for parameter in parameters)
    assert memory.fixed["gradients"] == sum(
        parameter.grad.nbytes for parameter in parameters if parameter.grad is not None
    )
    assert memory.fixed["optimizer"] == pytest.approx(sum(moment.nbytes for moment in moments), rel=1e-3)
    assert measure(ours, batch, in_parts=True).fixed["gradients"] == 2 * memory.fixed["gradients"]


def test_inputs_are_bytes_until_they_are_computed_with() -> None:
    """Catches a whole batch counted in float32 where only a part of it ever is."""
    ours = objective()
    batch = batch_of(ours.model, 3)
    memory = measure(ours, batch, in_parts=False)
    size = ours.model.config.vision.image_size
    assert memory.per_clip["pixels"] == 4 * (4 + 1) * 3 * size * size
    assert memory.per_clip["inputs"] == (4 + 1) * 3 * size * size + 2 * (6 * 8 + 6 * 8 + 1)


def test_the_parts_add_up_and_the_largest_fitting_one_is_found() -> None:
    """Catches a part that is counted for the whole batch, and advice that does not fit, or is not less."""
    fixed = {"weights": 100, "gradients": 100, "optimizer": 200, "cast": 10}
    memory = StepMemory(fixed, {"activations": 30, "recomputed": 5, "pixels": 3, "inputs": 2})
    assert memory.total(64, at_once=16) == 410 + 64 * 2 + 16 * 38
    for usable in (600, 1000, 2000, 10**6):
        size = memory.largest(64, below=48, usable=usable)
        assert size is not None
        assert memory.total(64, size) <= usable
        assert size == 32 or memory.total(64, 2 * size) > usable
    assert memory.largest(64, below=32, usable=10**6) == 16
    assert memory.largest(64, below=48, usable=500) is None
    assert memory.largest(64, below=1, usable=10**6) is None


def refused(**arguments: Any) -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(**arguments)
    return caught.value


def test_what_allocators_say_is_known() -> None:
    """Catches a batch that does not fit told as a crash, and a crash told as a batch that does not fit."""
    assert ran_out(refused(size=(2**55,), dtype=torch.uint8))  # torch's own words on this machine
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"))
    assert ran_out(MemoryError())
    assert not ran_out(refused(size=(-1,)))
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_free_memory_is_of_this_machine() -> None:
    """Catches pages taken for bytes, or kilobytes: 64 MiB to a PiB is what machines have."""
    free = free_memory(torch.device("cpu"))
    assert free is None or 2**26 < free < 2**50
    assert free_memory(torch.device("meta")) is None
