"""The video encoder by two versions of clipvip in turn: inference in three forms, and a training step.

Each version has a process of its own with a model of the same seeded weights; the two take turns, so that both see the
same machine. A pair is one call by each. Ratios of time (before / now: above 1 is faster now) are medians over pairs,
with the 95 % interval of a bootstrap.

    git worktree add /tmp/before COMMIT
    python benchmarks/encoder_pairs.py --before /tmp/before/src [--model b32|b16|small] [--batch 2] [--pairs 15]
        [--threads 1] [--forms FORM ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from measure import describe, table
from peers import SIZES

FORMS = ("fp32", "optimised fp32", "optimised bf16", "training step, bf16", "training step, fp32")
WARMUPS = 2
WORKER = """
import sys, time
import torch
from clipvip.model import ClipVipConfig, ClipVipModel

try:
    from clipvip.model import optimize_for_training
except ImportError:  # before it existed, the model was like that by itself
    optimize_for_training = lambda model: None

sizes, batch = eval(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(int(sys.argv[3]))

def build():
    torch.manual_seed(0)
    return ClipVipModel(ClipVipConfig(**sizes)).eval()

plain, trained = build(), build().train()
optimize_for_training(trained)
models = {"fp32": plain}
for dtype, name in (("float32", "optimised fp32"), ("bfloat16", "optimised bf16")):
    models[name] = build().optimize_for_inference(dtype)
size = sizes["vision_config"]["image_size"]
pixels = torch.randn(batch, sizes["num_frames"], 3, size, size, generator=torch.Generator().manual_seed(0))
direction = torch.randn(batch, sizes.get("projection_dim", 512), generator=torch.Generator().manual_seed(1))

def run(form):
    if form in models:
        with torch.inference_mode():
            models[form].encode_video(pixels)
        return
    trained.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=form.endswith("bf16")):
        loss = (trained.encode_video(pixels) * direction).sum()
    loss.backward()

for line in sys.stdin:
    started = time.perf_counter()
    run(line.strip())
    print(time.perf_counter() - started, flush=True)
"""


class Version:
    """A process that encodes with the package of a folder."""

    def __init__(self, source: Path, options: argparse.Namespace):
        environment = os.environ | {"PYTHONPATH": str(source)}
        arguments = [repr(SIZES[options.model]), str(options.batch), str(options.threads)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def run(self, form: str) -> float:
        """Seconds of one call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(form, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def compared(before: list[float], now: list[float]) -> list[str]:
    """Median milliseconds of both, the median ratio, and its 95 % interval."""
    ratios = np.array(before) / np.array(now)
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    milliseconds = (f"{1000 * np.median(times):.1f}" for times in (before, now))
    return [*milliseconds, f"{np.median(ratios):.3f}", f"{low:.3f} to {high:.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="the src folder of the other version")
    parser.add_argument("--model", choices=SIZES, default="b32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    options = parser.parse_args()
    versions = [Version(options.before, options), Version(Path(__file__).parents[1] / "src", options)]
    rows = []
    for form in options.forms:
        for version in versions:
            for _ in range(WARMUPS):
                version.run(form)
        seconds: list[list[float]] = [[], []]
        for number in range(options.pairs):
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                seconds[which].append(versions[which].run(form))
        rows.append([form, *compared(*seconds)])
    for version in versions:
        version.close()
    setting = f"{options.model}, batch {options.batch}, threads {options.threads}, {options.pairs} pairs"
    headings = ["form", "before, ms", "now, ms", "before / now", "95 % interval"]
    table("The video encoder, before and now", headings, rows, describe(torch.device("cpu"), setting))


if __name__ == "__main__":
    main()
