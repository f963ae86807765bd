"""What the job runner costs beside a plain loop over the same items, and whether its memory grows with them.

    python benchmarks/jobs.py [--items 100000] [--work-us 300] [--part-size 1000]

Both write the same lines. Paired: loop and job by turns, medians of --repeats. Memory: the driver's, after a tenth of
the items and at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import describe, resident_mib, table

from clipvip.jobs import Beat, run_job


class Digest:
    """Some microseconds of work an item, and a line."""

    name, suffix, memory_bytes = "digest", ".txt", None

    def __init__(self, rounds: int):
        self.rounds = rounds

    def settings(self) -> dict[str, Any]:
        """Nothing that matters."""
        return {}

    def name_of(self, item: str) -> str:
        """Itself."""
        return item

    def timeout_s(self, item: str) -> float:
        """A minute."""
        return 60.0

    def line(self, item: str) -> str:
        """Digests of digests."""
        digest = item.encode()
        for _ in range(self.rounds):
            digest = hashlib.sha256(digest).digest()
        return f"{item} {digest.hex()}\n"

    def run(self, items: Sequence[str], path: Path, beat: Beat) -> dict[str, Any]:
        """Write the lines."""
        with path.open("w") as file:
            for item in items:
                file.write(self.line(item))
                beat()
        return {}


def items(count: int) -> Iterator[str]:
    """Names."""
    return (f"clip{number:09d}" for number in range(count))


def time_loop(task: Digest, count: int, folder: Path) -> float:
    """Seconds."""
    start = time.perf_counter()
    with (folder / "lines.txt").open("w") as file:
        for item in items(count):
            file.write(task.line(item))
    return time.perf_counter() - start


def time_job(task: Digest, count: int, part_size: int, folder: Path) -> tuple[float, float, float]:
    """Seconds from the first item on (starting a process is not the runner's), and MiB early and late."""
    done, early, begun = 0, 0.0, 0.0

    def progress(number: int) -> None:
        nonlocal done, early, begun
        begun = begun or time.perf_counter()
        done += number
        if not early and done >= count // 10:
            early = resident_mib()

    run_job(task, items(count), folder / "job", source={}, part_size=part_size, progress=progress)
    return time.perf_counter() - begun, early, resident_mib()


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--work-us", type=float, default=300.0, help="microseconds of work an item")
    parser.add_argument("--part-size", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    start = time.perf_counter()
    Digest(10_000).line("x")
    task = Digest(max(1, round(options.work_us * 1e-6 / ((time.perf_counter() - start) / 10_000))))
    loops, jobs, memory = [], [], []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as name:
            loops.append(time_loop(task, options.items, Path(name)))
            seconds, early, late = time_job(task, options.items, options.part_size, Path(name))
            jobs.append(seconds)
            memory.append((early, late))
    ratios = [job / loop for job, loop in zip(jobs, loops, strict=True)]
    print(describe(torch.device("cpu"), f"{options.work_us:g} microseconds of work an item"))
    rows = [
        ["plain loop", f"{statistics.median(loops):.2f}", "1.00", ""],
        [
            "job, one worker",
            f"{statistics.median(jobs):.2f}",
            f"{statistics.median(ratios):.3f}",
            f"{memory[-1][0]:.1f} to {memory[-1][1]:.1f}",
        ],
    ]
    heads = ["", "s", "ratio", "driver, MiB, at a tenth and at the end"]
    table(f"{options.items:,} items in parts of {options.part_size:,}", heads, rows, "")


if __name__ == "__main__":
    main()
