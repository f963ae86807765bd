"""The order in which an epoch reads shards: near to each other on disk, yet well mixed.

N clips.
"""

from __future__ import annotations

import numpy as np

from clipvip.errors import InputError


def block_shuffled(
    num_clips: int, shard_of: np.ndarray, seed: int, epoch: int, block: int = 64, window: int = 32
) -> np.ndarray:
    """The order of one epoch, a pure function: each clip once, another order each epoch, the same on every machine.

    Neighbours of one shard form blocks of at most `block` clips; the blocks are shuffled over the whole set, then the
    clips within each `window` blocks. So at any time reads touch `window` short stretches, however large the set is.

    shard_of: int [N], the shard of each clip.
    Returns: int64 [N]. Raises: InputError if the numbers do not fit together.
    """
    if shard_of.shape != (num_clips,):
        raise InputError(f"shard_of has shape {list(shard_of.shape)}, but there are {num_clips} clips")
    if block < 1 or window < 1:
        raise InputError(f"block and window must be at least 1, not {block} and {window}")
    if num_clips == 0:
        return np.empty(0, np.int64)
    rng = np.random.default_rng([seed, epoch])
    starts = _block_starts(shard_of, block)
    lengths = np.diff(starts, append=num_clips)
    shuffled = rng.permutation(len(starts))
    starts, lengths = starts[shuffled], lengths[shuffled]
    ends = np.cumsum(lengths)  # in the new order
    order = np.arange(num_clips) + np.repeat(starts - (ends - lengths), lengths)
    for first in range(0, len(starts), window):
        last = min(first + window, len(starts)) - 1
        rng.shuffle(order[ends[first] - lengths[first] : ends[last]])
    return order


def _block_starts(shard_of: np.ndarray, block: int) -> np.ndarray:
    """Where blocks begin: at the first clip of a shard, and at every `block`-th one from there on."""
    places = np.arange(len(shard_of))
    first = np.flatnonzero(np.diff(shard_of, prepend=shard_of[0] - 1))
    since = places - np.repeat(first, np.diff(first, append=len(shard_of)))
    return places[since % block == 0]
