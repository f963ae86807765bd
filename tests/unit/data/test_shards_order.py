"""The order of an epoch over shards: complete, mixed, local."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipvip.data.shards import block_shuffled
from clipvip.errors import InputError

SIZES = st.lists(st.integers(0, 50), max_size=8)


def shards(sizes: list[int]) -> np.ndarray:
    """The shard of each clip."""
    return np.repeat(np.arange(len(sizes)), np.array(sizes, np.int64))


@given(SIZES, st.integers(0, 2**32), st.integers(0, 1000), st.integers(1, 20), st.integers(1, 9))
def test_each_clip_once_and_the_same_again(sizes: list[int], seed: int, epoch: int, block: int, window: int) -> None:
    """Catches clips lost or doubled at the ends of shards and blocks, and a draw from anything but (seed, epoch)."""
    shard_of = shards(sizes)
    order = block_shuffled(len(shard_of), shard_of, seed, epoch, block, window)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(len(shard_of)))
    assert order.tolist() == block_shuffled(len(shard_of), shard_of, seed, epoch, block, window).tolist()


@given(SIZES, st.integers(0, 100), st.integers(1, 20), st.integers(1, 9))
def test_reads_stay_local(sizes: list[int], seed: int, block: int, window: int) -> None:
    """Catches windows that touch more than `window` stretches, and blocks that cross from shard to shard."""
    shard_of = shards(sizes)
    order = block_shuffled(len(shard_of), shard_of, seed, 0, block, window)
    since = np.concatenate([np.arange(size) for size in (*sizes, 0)])
    block_of = np.stack([shard_of, since.astype(np.int64) // block], 1)
    place = 0
    while place < len(order):
        touched: list[tuple[int, ...]] = []
        while place < len(order):
            key = tuple(block_of[order[place]].tolist())
            if key not in touched and len(touched) == window:
                break
            touched += [key] if key not in touched else []
            place += 1
        read = {tuple(key) for key in block_of[order[:place]].tolist()}
        complete = sum(1 for key in block_of.tolist() if tuple(key) in read)
        assert complete == place, "a block was left before it was read to its end"


def test_neighbours_mix_and_epochs_differ() -> None:
    """Catches an order that keeps clips of one shard together, and one that every epoch repeats."""
    shard_of = shards([1000] * 20)
    first, second = (block_shuffled(20_000, shard_of, 3, epoch) for epoch in (0, 1))
    assert np.mean(first == second) < 0.01
    assert np.mean(np.abs(np.diff(first)) == 1) < 0.01
    batches = shard_of[first[:19_968]].reshape(-1, 128)
    assert min(len(set(batch.tolist())) for batch in batches) >= 5


def test_recorded() -> None:
    """Catches another order on another machine or by another version: runs could not be resumed."""
    order = block_shuffled(12, shards([7, 5]), seed=5, epoch=2, block=3, window=2)
    assert order.tolist() == RECORDED


def test_numbers_that_do_not_fit() -> None:
    """Catches an order of the wrong set."""
    with pytest.raises(InputError, match="3 clips"):
        block_shuffled(3, np.zeros(4, np.int64), 0, 0)
    with pytest.raises(InputError, match="at least 1"):
        block_shuffled(4, np.zeros(4, np.int64), 0, 0, block=0)


RECORDED = [8, 2, 9, 0, 7, 1, 4, 5, 3, 10, 11, 6]
