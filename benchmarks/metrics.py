"""Evaluation at the size of large retrieval sets: time and memory beyond the similarity itself.

Each row in a process of its own, after the similarity (random, float32, every video with as many captions) is there.
Re-scoring gives a matrix of the similarity's size, which is part of what it takes. The querybank has 20,000 texts; the
intervals are those of t2v, ranks included, from 2,000 resamples of videos.

    python benchmarks/metrics.py [--texts 50000] [--videos 10000] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from measure import describe, forget_peak, in_own_process, resident_mib, table

from clipvip.evaluation import (
    bootstrap_intervals,
    dual_softmax,
    querybank_norm,
    retrieval_metrics,
    retrieval_ranks,
)

WORK: dict[str, Callable[[np.ndarray, np.ndarray], object]] = {
    "retrieval_metrics": retrieval_metrics,
    "dual_softmax": lambda scores, _: dual_softmax(scores),
    "querybank_norm": lambda scores, _: querybank_norm(scores, scores[:20_000]),
    "bootstrap_intervals": lambda scores, owners: bootstrap_intervals(retrieval_ranks(scores, owners)["t2v"], owners),
}


def measured(name: str, num_texts: int, num_videos: int) -> tuple[float, float, float, float]:
    """Seconds, processor seconds, MiB at the peak beyond the similarity, and MiB of the similarity."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((num_texts, num_videos), dtype=np.float32)
    owners = np.arange(num_texts) % num_videos
    WORK[name](scores[:100, :50].copy(), owners[:100] % 50)  # what is imported and allocated once
    before = forget_peak()
    start, cpu_start = time.perf_counter(), time.process_time()
    WORK[name](scores, owners)
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    return wall_s, cpu_s, resident_mib("VmHWM") - before, scores.nbytes / 2**20


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=50_000)
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--only", choices=WORK, nargs="*", default=list(WORK))
    options = parser.parse_args()
    rows = []
    for name in options.only:
        wall_s, cpu_s, beyond, size = in_own_process(measured, name, options.texts, options.videos)
        rows.append([name, f"{wall_s:.1f}", f"{cpu_s:.1f}", f"{beyond:.0f}"])
    setting = f"NumPy {np.__version__}, once each"
    table(
        f"{options.texts:,} x {options.videos:,} ({size:.0f} MiB)",
        ["function", "s", "CPU s", "MiB beyond the similarity"],
        rows,
        describe(torch.device("cpu"), setting),
    )


if __name__ == "__main__":
    main()
