"""How fast a run is, and what holds it up."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

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
        """Time in this block is waited for data."""
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
        """Count a step: its clips over all processes, and the operations of this one (see `model.flops`)."""
        self._clips += clips
        self._flops += flops

    def read(self) -> dict[str, float]:
        """`seconds` passed, `clips_per_s` over all processes, `data_wait` as a share of the time, `mfu` (operations
        over what matrix products reach on this device) and `peak_memory_gib` of this process (on a GPU: of its
        tensors); then start anew.
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
    """Bytes this process held at most: of a GPU's memory by tensors, else of the machine's; 0 where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large square matrix product on this device, the best of a few."""
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
