"""How fast a run is: its rates, and the floating-point operations of its model.

Matrix products alone are counted, two operations per multiply-add, and of them only those that this model needs:
patches see their own frame and the proxies, the last block has outputs for one token alone. Recomputation (activation
checkpointing, gradient caching) is not counted, so that operations per second over a machine's rate is the usual MFU.

Shapes: T frames, L patches per frame, M proxies, S tokens of a text, D width.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch

from clipvip.data import Batch
from clipvip.model.configuration_clipvip import FRAMEWISE, ClipVipConfig, TowerConfig

if sys.platform != "win32":
    import resource

GIB = 2**30


class Meter:
    """Rates since the last reading.

    device, dtype: where this process computes, and in what.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device = device
        self.peak = matmul_rate(device, dtype)
        self._start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in this block is spent waiting for data."""
        start = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in this block does not count: validation, saving."""
        start = time.perf_counter()
        yield
        self._started += time.perf_counter() - start

    def add(self, clips: int, flops: float) -> None:
        """Count a step: its clips over all processes, and the operations of this one."""
        self._clips += clips
        self._flops += flops

    def read(self) -> dict[str, float]:
        """`seconds` passed, `clips_per_s` over all processes, `data_wait` as a share of the time, `mfu` (operations
        over what matrix products reach on this device) and `peak_memory_gib` of this process (on a GPU: of its
        tensors); then start again.
        """
        seconds = time.perf_counter() - self._started
        rates = {
            "seconds": seconds,
            "clips_per_s": round(self._clips / seconds, 1),
            "data_wait": round(self._waited_s / seconds, 4),
            "mfu": round(self._flops / seconds / self.peak, 4),
            "peak_memory_gib": round(peak_memory(self.device) / GIB, 3),
        }
        self._start()
        return rates

    def _start(self) -> None:
        self._started = time.perf_counter()
        self._waited_s, self._clips, self._flops = 0.0, 0, 0.0


def peak_memory(device: torch.device) -> int:
    """Bytes this process held at most: of a GPU's memory by tensors, else of the machine's; 0 where it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square matrix product on this device, the best of a few."""
    size, rounds = (8192, 20) if device.type == "cuda" else (1024, 5)
    a = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(rounds):
        _finish(device)
        start = time.perf_counter()
        a @ a
        _finish(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True, slots=True)
class Products:
    """`count` linear layers of one shape: [rows, inputs] -> [rows, outputs]."""

    rows: int
    inputs: int
    outputs: int
    count: int = 1

    @property
    def flops(self) -> float:
        """Floating-point operations of all of them, forward."""
        return 2.0 * self.rows * self.inputs * self.outputs * self.count


def vision_layers(config: ClipVipConfig, num_frames: int, batch: int = 1) -> list[Products]:
    """The linear layers of the vision tower, patch embedding first; projection and attention are not among them."""
    vision = config.vision
    sequences, frames, num_patches, num_tokens = _vision_shape(config, num_frames, batch)
    return [
        Products(sequences * frames * num_patches, vision.num_channels * vision.patch_size**2, vision.hidden_size),
        *_blocks(vision, sequences, num_tokens, pruned=True),
    ]


def video_flops(config: ClipVipConfig, num_frames: int, *, training: bool = False) -> float:
    """Operations for the embedding of one clip of `num_frames` frames, T = 1 being an image; projection included.

    training: forward and backward. A product's backward pass is two of its size, except that pixels need no gradient.
    """
    patches, *blocks = vision_layers(config, num_frames)
    sequences, frames, num_patches, num_tokens = _vision_shape(config, num_frames, batch=1)
    num_proxies = 1 + config.num_added_proxies
    pairs = num_tokens**2
    if config.aggregator == "vip":
        pairs = num_proxies * num_tokens + frames * num_patches * (num_proxies + num_patches)
    forward = patches.flops + sum(layers.flops for layers in blocks)
    forward += sequences * _attention(config.vision, (config.vision.num_hidden_layers - 1) * pairs + num_tokens)
    forward += Products(sequences, config.vision.hidden_size, config.projection_dim).flops
    if config.aggregator == "transformer":
        temporal = config.temporal
        forward += sum(layers.flops for layers in _blocks(temporal, 1, num_frames, pruned=False))
        forward += _attention(temporal, temporal.num_hidden_layers * num_frames**2)
    return 3 * forward - patches.flops if training else forward


def text_flops(config: ClipVipConfig, num_tokens: int, *, training: bool = False) -> float:
    """Operations for the embedding of one text of a batch that is `num_tokens` long, padding included.

    Causal attention counts all S x S pairs, as torch's own counter does, although nearly half are masked.
    """
    text = config.text
    forward = sum(layers.flops for layers in _blocks(text, 1, num_tokens, pruned=True))
    forward += _attention(text, (text.num_hidden_layers - 1) * num_tokens**2 + num_tokens)
    forward += Products(1, text.hidden_size, config.projection_dim).flops
    return 3 * forward if training else forward


def training_flops(
    config: ClipVipConfig, num_frames: int, num_tokens: int, *, frame: bool = False, caption: bool = False
) -> float:
    """Operations of a training step, forward and backward, for one clip of its batch; the loss is not counted.

    num_tokens: S of the step's texts. frame, caption: whether the loss variant has F, the middle frame, and C, a
    second text, which is padded to the same length.
    """
    video = video_flops(config, num_frames, training=True)
    middle = video_flops(config, 1, training=True) if frame else 0.0
    return video + middle + (2 if caption else 1) * text_flops(config, num_tokens, training=True)


def batch_flops(config: ClipVipConfig, batch: Batch) -> float:
    """Operations of a training step for each clip of such a batch."""
    texts = [texts.input_ids.shape[1] for texts in (batch.subtitle, batch.caption) if texts is not None]
    frame, caption = batch.frame is not None, batch.caption is not None
    return training_flops(config, batch.video.shape[1], max(texts), frame=frame, caption=caption)


def _vision_shape(config: ClipVipConfig, num_frames: int, batch: int) -> tuple[int, int, int, int]:
    """How the vision tower sees a batch: (sequences, frames in each, L, tokens in each)."""
    if config.aggregator in FRAMEWISE:
        batch, num_frames = batch * num_frames, 1
    num_patches = (config.vision.image_size // config.vision.patch_size) ** 2
    return batch, num_frames, num_patches, 1 + config.num_added_proxies + num_frames * num_patches


def _blocks(tower: TowerConfig, sequences: int, num_tokens: int, *, pruned: bool) -> list[Products]:
    """The linear layers of a stack of blocks. pruned: the last block has outputs for one token of each sequence."""
    width, hidden, rows = tower.hidden_size, tower.intermediate_size, sequences * num_tokens
    full = tower.num_hidden_layers - pruned
    layers = [
        Products(rows, width, width, 4 * full + (2 if pruned else 0)),  # query, key, value, out; the last key and value
        Products(rows, width, hidden, full),
        Products(rows, hidden, width, full),
    ]
    if pruned:
        layers += [
            Products(sequences, width, width, 2),
            Products(sequences, width, hidden),
            Products(sequences, hidden, width),
        ]
    return layers


def _attention(tower: TowerConfig, pairs: int) -> float:
    """Operations for `pairs` of a query and a key that see each other: a score and a weighted value, D wide."""
    return 4.0 * tower.hidden_size * pairs
