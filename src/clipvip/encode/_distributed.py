"""Encoding by all processes of a run.

Shapes: N items, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from clipvip import distributed
from clipvip.encode.encoder import Encoder, check_some_left
from clipvip.progress import step_counter
from clipvip.records import Clip, Embeddings

Item = TypeVar("Item")
Result = TypeVar("Result")


class DistributedEncoder:
    """An `Encoder` whose work is shared out among the processes of a run; all get all rows, in the order given.

    Batches are cut first and shared out then: the vectors are those of one process, to the last bit if the same kernels
    compute them (on CPUs `load` times kernels and takes the fastest; those differ by 2e-7). Without other processes it
    is that encoder.
    """

    def __init__(self, encoder: Encoder, *, batch_size: int = 16, text_batch_size: int = 256):
        self.encoder = encoder
        self.batch_size = batch_size
        self.text_batch_size = text_batch_size

    @property
    def dtype(self) -> str:
        """As `Encoder.dtype`."""
        return self.encoder.dtype

    @property
    def sampling(self) -> dict[str, Any]:
        """As `Encoder.sampling`."""
        return self.encoder.sampling

    def encode_texts(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """As `Encoder.encode_texts`."""
        size, mine = self.text_batch_size, progress and distributed.rank() == 0
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # the encoder's own order, and so its batches
        shares = _shared(
            lambda share: self.encoder.encode_texts([texts[i] for i in share], batch_size=size, progress=mine),
            order,
            size,
        )
        vectors = np.empty((len(texts), self.encoder.embedding_size), np.float32)
        for number, share in enumerate(shares):
            vectors[_share(order, size, number)] = share
        return vectors

    def encode_clips(
        self, clips: Sequence[Clip], *, progress: bool = False, on_decode_error: Literal["raise", "skip"] = "raise"
    ) -> Embeddings:
        """As `Encoder.encode_clips`."""
        size, mine = self.batch_size, progress and distributed.rank() == 0

        def work(share: Sequence[Clip]) -> Embeddings:
            with step_counter(mine, "encoding clips", len(share)) as told:
                return self.encoder.encode_decodable(share, batch_size=size, on_decode_error=on_decode_error, told=told)

        shares = _shared(work, clips, size)
        vectors = {id_: row for share in shares for id_, row in zip(share.ids, share.vectors, strict=True)}
        reasons = {id_: reason for share in shares for id_, reason in share.skipped.items()}
        ids = tuple(clip.clip_id for clip in clips if clip.clip_id not in reasons)
        skipped = {clip.clip_id: reasons[clip.clip_id] for clip in clips if clip.clip_id in reasons}
        rows = np.stack([vectors[id_] for id_ in ids]) if ids else shares[0].vectors[:0]
        embeddings = Embeddings(ids, rows, shares[0].fingerprint, skipped)
        check_some_left(clips, embeddings)
        return embeddings


def _shared(work: Callable[[Sequence[Item]], Result], items: Sequence[Item], size: int) -> list[Result]:
    """What each process makes of its share. An error of one is raised by all."""
    return distributed.together(lambda: work(_share(items, size, distributed.rank())))


def _share(items: Sequence[Item], size: int, number: int) -> list[Item]:
    """Of the items' batches of `size`, every world-th one, from `number` on."""
    starts = range(number * size, len(items), distributed.world() * size)
    return [item for start in starts for item in items[start : start + size]]
