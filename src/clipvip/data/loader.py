"""Batches in an order that is a pure function of (seed, step), so that resuming needs one integer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import DataLoader, Sampler

from clipvip.data.dataset import Batch, ClipDataset, Collator
from clipvip.errors import ConfigError


class PassSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (pass, index) addresses from `start_step` to `num_steps`.

    Every pass over the clips has a permutation of its own; the clips that do not fill a last batch wait for a later
    pass, so that no batch holds a clip twice (it would be its own negative).
    """

    def __init__(self, num_clips: int, batch_size: int, num_steps: int, *, seed: int, start_step: int = 0):
        if num_clips < batch_size:
            raise ConfigError(f"batch_size={batch_size}, but there are only {num_clips} clips: choose at most that")
        self.num_clips = num_clips
        self.batch_size = batch_size
        self.num_steps = num_steps
        self.seed = seed
        self.start_step = start_step

    def __len__(self) -> int:
        return self.num_steps - self.start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_pass = steps_per_pass(self.num_clips, self.batch_size)
        order, order_of = np.empty(0, np.int64), -1
        for step in range(self.start_step, self.num_steps):
            pass_number, position = divmod(step, per_pass)
            if pass_number != order_of:
                order = np.random.default_rng([self.seed, pass_number]).permutation(self.num_clips)
                order_of = pass_number
            start = position * self.batch_size
            yield [(pass_number, int(index)) for index in order[start : start + self.batch_size]]


def steps_per_pass(num_clips: int, batch_size: int) -> int:
    """Full batches in one pass over the clips."""
    return num_clips // batch_size


def make_loader(
    dataset: ClipDataset, sampler: PassSampler, collator: Collator, *, num_workers: int
) -> DataLoader[Batch]:
    """The loader. Workers are spawned, not forked: decoders and tokenisers run threads."""
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # torch's annotation has no room for a collate_fn of another type
        batch_sampler=sampler,
        collate_fn=collator,
        num_workers=num_workers,
        multiprocessing_context="spawn" if num_workers else None,
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers else None,
    )
