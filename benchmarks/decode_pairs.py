"""Decoding by two versions of clipvip in turn: 12 uniform frames at 224 x 224, and all windows of an index.

Each version has a process of its own that reads the same files; the two take turns, so that both see the same machine.
A pair is one read by each. Ratios of CPU time are medians over pairs, with the 95 % interval of a bootstrap. The videos
are made on the spot unless --files has them.

    git worktree add /tmp/before COMMIT
    python benchmarks/decode_pairs.py --before /tmp/before/src [--pairs 25] [--files FOLDER]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import torch
from decode import CLIPS, video_file
from measure import describe

READER = """
import sys, time
from clipvip.video import Scales, SegmentFrames, read_frames, stream_segments
for line in sys.stdin:
    kind, path = line.rstrip("\\n").split(" ", 1)
    started = time.process_time()
    if kind == "frames":
        read_frames(path, size=(224, 224))
    else:
        for part in stream_segments(path, Scales.of(6.0), size=(224, 224)):
            pass
    print(time.process_time() - started, flush=True)
"""


class Reader:
    """A process that reads with the package of a folder."""

    def __init__(self, source: Path):
        environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def read(self, kind: str, path: Path) -> float:
        """CPU seconds of one read."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(kind, path, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="src folder of the other version")
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--files", type=Path, help="folder of videos; made there if missing")
    arguments = parser.parse_args()
    folder = arguments.files or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    after = Path(__file__).resolve().parents[1] / "src"
    readers = [Reader(arguments.before.resolve()), Reader(after)]
    rng = np.random.default_rng(0)
    print(describe(torch.device("cpu"), f"av {av.__version__}, one thread, {arguments.pairs} pairs"))
    print("\n| file | read | before, ms | after, ms | after / before | 95 % interval |\n|---|---|---|---|---|---|")
    for name in CLIPS:
        path = video_file(folder, name)
        for kind in ("frames", "segments"):
            for reader in readers:
                reader.read(kind, path)
            times = np.array([_pair(readers, kind, path, number) for number in range(arguments.pairs)])
            ratios = times[:, 1] / times[:, 0]
            drawn = np.median(rng.choice(ratios, (10_000, len(ratios))), axis=1)
            low, high = np.percentile(drawn, (2.5, 97.5))
            before_ms, after_ms = 1000 * np.median(times, axis=0)
            ratio = f"{np.median(ratios):.3f} | {low:.3f} to {high:.3f}"
            print(f"| {name} | {kind} | {before_ms:.1f} | {after_ms:.1f} | {ratio} |", flush=True)
    for reader in readers:
        reader.close()


def _pair(readers: list[Reader], kind: str, path: Path, number: int) -> tuple[float, float]:
    """Before and after; which goes first alternates."""
    order = (0, 1) if number % 2 == 0 else (1, 0)
    times = {which: readers[which].read(kind, path) for which in order}
    return times[0], times[1]


if __name__ == "__main__":
    main()
