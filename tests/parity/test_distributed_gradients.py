"""Any number of processes, with or without gradient caching, against one process that holds the whole batch."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from clipvip import distributed
from clipvip.data.dataset import Batch, TextBatch
from clipvip.losses import VARIANTS, omnisource_loss
from clipvip.training.config import LossSection
from clipvip.training.step import OmnisourceObjective
from helpers_golden import golden_config, golden_model
from helpers_ranks import in_processes

EVEN = {1: (16,), 2: (8, 8), 4: (4, 4, 4, 4)}
"""Clips of each process, as the sampler cuts a batch ..."""
UNEVEN = {1: (16,), 2: (5, 11), 4: (1, 6, 0, 9)}
"""... and as clips that cannot be decoded leave it."""
LIMITS = {torch.float64: 1e-9, torch.float32: 1e-5}


class Case(NamedTuple):
    """How a step is taken. masked: some clips lack a text, and the processes' shares are uneven."""

    variant: str
    masked: bool
    dtype: torch.dtype

    def sizes(self, world: int) -> tuple[int, ...]:
        """Clips of each process."""
        return (UNEVEN if self.masked else EVEN)[world]


CASES = [Case(variant, masked, dtype) for dtype, masked, variant in product(LIMITS, (False, True), VARIANTS)]
MICRO = (None, 2)


def make_batch(case: Case, num_clips: int = 16) -> Batch:
    """The global batch: pixels and texts of the recorded model's sizes."""
    random = torch.Generator().manual_seed(3)
    config = golden_config()
    size, frames = config.vision.image_size, config.num_frames
    video = torch.randn(num_clips, frames, 3, size, size, generator=random, dtype=torch.float64).to(case.dtype)

    def texts(length: int, every: int) -> TextBatch:
        ids = torch.randint(1, 97, (num_clips, length), generator=random)
        ids[:, -1] = 99
        valid = torch.arange(num_clips) % every != 1 if case.masked else torch.ones(num_clips, dtype=torch.bool)
        return TextBatch(ids, torch.ones_like(ids), valid)

    subtitle, caption = texts(7, 3), texts(5, 5)
    return Batch(
        tuple(map(str, range(num_clips))),
        video,
        video[:, frames // 2 : frames // 2 + 1] if "f" in case.variant else None,
        subtitle,
        caption if "c" in case.variant else None,
    )


def share_of(batch: Batch, sizes: tuple[int, ...], rank: int) -> Batch:
    """What the loader of one process makes of its share; without a clip, a placeholder."""
    start = sum(sizes[:rank])
    if sizes[rank]:
        return replace(
            batch.each(lambda tensor: tensor[start : start + sizes[rank]]),
            clip_ids=batch.clip_ids[start : start + sizes[rank]],
        )
    return replace(batch.each(lambda tensor: tensor[:1]), clip_ids=())


def gradients(case: Case, sizes: tuple[int, ...], micro_batch: int | None) -> dict[str, Tensor]:
    """One step's gradients, and the loss."""
    model = cached_model(case.dtype)
    model.zero_grad()
    objective = OmnisourceObjective(model, LossSection(variant=case.variant), _as_it_is)
    batch = share_of(make_batch(case), sizes, distributed.rank())
    if micro_batch is not None:
        loss = objective.cached_backward(batch, micro_batch, sizes)
        distributed.average_gradients(model.parameters())
    else:
        wrapped = DistributedDataParallel(objective) if dist.is_initialized() else objective
        loss = wrapped(batch, sizes)
        loss.backward()
    grads = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return {"loss": loss.detach(), **grads}


cached_model = cache(golden_model)


def _as_it_is(pictures: Tensor) -> Tensor:
    raise AssertionError("pixel values need no change")


def all_steps(world: int) -> dict[tuple[Case, int | None], dict[str, Tensor]]:
    """Every case, plain and in parts of 2."""
    return {(case, micro): gradients(case, case.sizes(world), micro) for case, micro in product(CASES, MICRO)}


def difference(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference of all gradients, relative to their norm."""

    def flat(grads: dict[str, Tensor]) -> Tensor:
        return torch.cat([grads[name].double().flatten() for name in sorted(grads) if name != "loss"])

    return float((flat(ours) - flat(expected)).norm() / flat(expected).norm())


@pytest.mark.parametrize("world", EVEN)
def test_gradients_are_those_of_one_process(world: int, tmp_path: Path) -> None:
    """Catches negatives of one process alone, a lost rank offset or factor, a padded row that counts, a mask that is
    not gathered, a part of a batch encoded with other numbers, and a temperature summed where towers are averaged."""
    everyone = in_processes(world, all_steps, world, folder=tmp_path) if world > 1 else [all_steps(1)]
    for case in CASES:
        expected = gradients(case, EVEN[1], None)
        assert float(expected["loss"]) > 0.1
        for micro, (rank, steps) in product(MICRO, enumerate(everyone)):
            ours = steps[case, micro]
            where = f"{case}, micro_batch {micro}, rank {rank}"
            assert difference(ours, expected) < LIMITS[case.dtype], where
            assert float(ours["loss"]) == pytest.approx(float(expected["loss"]), rel=LIMITS[case.dtype]), where
            scale = float(expected["logit_scale"])
            assert float(ours["logit_scale"]) == pytest.approx(scale, rel=100 * LIMITS[case.dtype]), where


def image_text_step(num_videos: int, num_images: int, gather: object) -> list[Tensor]:
    """Gradients of features where image-text pairs come in a batch of another size than video-text pairs."""
    random = torch.Generator().manual_seed(5)

    def features(rows: int) -> Tensor:
        values = torch.nn.functional.normalize(torch.randn(rows, 8, generator=random, dtype=torch.float64), dim=-1)
        total = distributed.world()
        return values.chunk(total)[distributed.rank()].clone().requires_grad_()

    leaves = [features(rows) for rows in (num_videos, num_images, num_videos, num_images)]
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    omnisource_loss(*leaves, scale, variant="vs+fc", gather=gather).backward()
    return [leaf.grad for leaf in (*leaves, scale)]


def test_image_text_pairs_may_come_in_batches_of_their_own(tmp_path: Path) -> None:
    """Catches one source's row counts used for another: 8 video-text pairs, 6 image-text pairs, two processes."""
    *expected, scale = image_text_step(8, 6, None)
    both = in_processes(2, partial(image_text_step, 8, 6, distributed.all_gather), folder=tmp_path)
    for number, whole in enumerate(expected):
        ours = torch.cat([grads[number] for grads in both]) / 2  # the mean over processes is the gradient
        torch.testing.assert_close(ours, whole, rtol=1e-9, atol=1e-12)
    for grads in both:
        torch.testing.assert_close(grads[-1], scale, rtol=1e-9, atol=1e-12)
