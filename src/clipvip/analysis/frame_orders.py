"""Clips as a model sees them when their frames come in other orders than they were sampled in.

Shapes: V videos, T frames, P = 1 + number of orders, S image size, E embedding size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from clipvip.encode import Encoder, check_some_left
from clipvip.errors import VideoDecodeError
from clipvip.jobs import prefetch
from clipvip.records import Clip, Embeddings

PLAIN = "plain"


def _shuffled(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Any order but the first one."""
    order = rng.permutation(num_frames)
    while num_frames > 1 and (np.diff(order) == 1).all():
        order = rng.permutation(num_frames)
    return order


ORDERS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "reversed": lambda num_frames, rng: np.arange(num_frames)[::-1],
    "shuffled": _shuffled,
    "halves swapped": lambda num_frames, rng: np.roll(np.arange(num_frames), -(num_frames // 2)),
    "frozen": lambda num_frames, rng: np.full(num_frames, num_frames // 2),
}
"""Which of T frames stand where, [T]. "frozen": the middle one, T times; all others hold each frame once."""


@dataclass(frozen=True, slots=True)
class OrderedEmbeddings:
    """Of the clips that could be decoded, in the order of `clips`. vectors: [V, P, E], P as PLAIN and ORDERS.

    skipped: reasons by clip_id. num_still: clips of a single frame.
    """

    ids: tuple[str, ...]
    vectors: np.ndarray
    fingerprint: str
    skipped: Mapping[str, str]
    num_still: int

    def of(self, name: str) -> Embeddings:
        """Those of one order, or PLAIN."""
        row = [PLAIN, *ORDERS].index(name)
        return Embeddings(self.ids, self.vectors[:, row], self.fingerprint, self.skipped)


def encode_orders(
    encoder: Encoder,
    clips: Sequence[Clip],
    seed: int,
    batch_size: int,
    on_decode_error: Literal["raise", "skip"],
    on_clip: Callable[[], None],
) -> OrderedEmbeddings:
    """Encode clips in order and in each of `ORDERS`: each is decoded once, and goes through the model in all at once.

    seed: of the shuffled order, which depends on it and the clip_id alone. on_clip: called after each clip.
    Raises: VideoDecodeError, with "skip" if no clip is left.
    """
    skipped: dict[str, str] = {}

    def pixels(clip: Clip) -> Tensor | None:
        try:
            return encoder.processor.clip_pixels(clip)
        except VideoDecodeError as error:
            if on_decode_error == "raise":
                raise
            skipped[clip.clip_id] = str(error)
            return None

    vectors: dict[str, np.ndarray] = {}
    waiting: dict[int, list[tuple[str, Tensor]]] = {}  # by T
    num_still = 0

    def flush(batch: list[tuple[str, Tensor]]) -> None:
        encoded = encoder.encode_pixels(torch.cat([frames for _, frames in batch]))
        for (clip_id, _), rows in zip(batch, np.split(encoded, len(batch)), strict=True):
            vectors[clip_id] = rows  # [P, E]
        batch.clear()

    for clip, frames in zip(clips, prefetch(pixels, clips, ahead=2 * batch_size), strict=True):
        if frames is not None:
            num_still += len(frames) == 1
            batch = waiting.setdefault(len(frames), [])
            batch.append((clip.clip_id, frames[_orders(clip.clip_id, len(frames), seed)]))  # [P, T, 3, S, S]
            if len(batch) == batch_size:
                flush(batch)
        on_clip()
    for batch in waiting.values():
        if batch:
            flush(batch)
    ids = tuple(clip.clip_id for clip in clips if clip.clip_id in vectors)
    check_some_left(clips, Embeddings(ids, np.empty((0, 0)), encoder.fingerprint, skipped))
    return OrderedEmbeddings(ids, np.stack([vectors[id_] for id_ in ids]), encoder.fingerprint, skipped, num_still)


def _orders(clip_id: str, num_frames: int, seed: int) -> Tensor:
    """Frame numbers, int64 [P, T]."""
    key = int.from_bytes(hashlib.blake2b(clip_id.encode("utf-8", "surrogatepass"), digest_size=8).digest())
    rng = np.random.default_rng([seed, key])
    orders = [order(num_frames, rng) for order in ORDERS.values()]
    return torch.from_numpy(np.stack([np.arange(num_frames), *orders]))
