"""Shards: a data set as a few large WebDataset tars instead of millions of files, for training at any scale.

`write_shards` makes them, `ShardSet` reads them (and tars that others made) clip by clip, here or on an object store.
"""

from clipvip.data.shards.read import ShardSet, block_shuffled, index_tars
from clipvip.data.shards.write import ShardTask, write_shards

__all__ = ["ShardSet", "ShardTask", "block_shuffled", "index_tars", "write_shards"]
