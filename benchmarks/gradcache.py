"""Gradient caching against the plain step: peak memory by batch and time at equal batch, as Markdown tables.

One step of omnisource learning in the paper's variant (video, middle frame, subtitle, auxiliary caption): forward and
backward as the trainer runs them, without an optimiser. Memory: each row in a process of its own. Time: paired and
interleaved in one process, as in measure.py; ratios are medians over rounds of row / plain, below 1 is less time.
Before anything is timed, both ways are checked to yield the same loss and gradients.

On a CPU glibc keeps much of what was freed; with MALLOC_MMAP_THRESHOLD_=131072 in the environment it gives freed
tensors back at once, and the peak is that of the tensors in use.

    python benchmarks/gradcache.py [--model b32|b16|small] [--frames N] [--precision bfloat16|float32] [--micro-batch 8]
        [--batches 32 256] [--plain-batches 8 16 32] [--time-batch 32] [--repeats 5] [--threads 1] [--device cpu|cuda]
        [--only memory time]
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import dataclass
from functools import partial

import torch
from measure import Case, describe, in_own_process, interleaved, ratio_cells, step_mib, table
from peers import SIZES, build, config_of
from torch import Tensor

from clipvip.data.dataset import Batch, TextBatch
from clipvip.model import ClipVipConfig
from clipvip.training.config import LossSection
from clipvip.training.step import OmnisourceObjective
from clipvip.video.transforms import to_pixel_values

LOSS = LossSection(variant="vsc+fc")
TOKENS = 70  # where recipes cut texts
FEWEST_REPEATS = 5
SAME = {"float32": 1e-4, "bfloat16": 1e-1}
"""Largest difference of the gradients as one vector, relative to its norm: parts are rounded and summed otherwise."""
PLAIN = "plain"
RETURN_FROM = "MALLOC_MMAP_THRESHOLD_"


@dataclass(frozen=True)
class Setting:
    """What all steps share. micro_batch: clips that gradient caching computes with at a time."""

    model: str
    num_frames: int | None
    precision: str
    micro_batch: int
    threads: int
    device: torch.device

    @property
    def cached(self) -> str:
        """What the tables call a step with gradient caching."""
        return f"cached, micro-batch {self.micro_batch}"


@dataclass(frozen=True)
class Step:
    """Forward and backward: the loss; gradients are left standing. micro_batch: of gradient caching, None: without."""

    objective: OmnisourceObjective
    batch: Batch
    micro_batch: int | None

    def __call__(self) -> Tensor:
        self.objective.zero_grad()
        if self.micro_batch is not None:
            return self.objective.cached_backward(self.batch, self.micro_batch)
        loss = self.objective(self.batch)
        loss.backward()
        return loss.detach()


def memory_table(options: argparse.Namespace, setting: Setting) -> None:
    """Print the peak memory of steps of several batches."""
    rows = []
    for form, batches in ((PLAIN, options.plain_batches), (setting.cached, options.batches)):
        peaks = []
        for batch in batches:
            inputs, peak = in_own_process(step_memory, setting, form, batch)
            peaks.append(peak)
            rows.append([form, f"{batch}", f"{inputs:.0f}", f"{peak:.0f}", f"{peak / peaks[0]:.2f}"])
    caption = (
        "Each row in a process of its own: what its first step takes on top of model and inputs (uint8 pictures and "
        f"token ids), with the float32 gradients and without an optimiser: {_measured(setting.device)}. Ratio: to the "
        "first batch of the same form."
    )
    table("Peak memory of a training step", ["form", "batch", "inputs, MiB", "step, MiB", "ratio"], rows, caption)


def step_memory(setting: Setting, form: str, batch: int) -> tuple[float, float]:
    """MiB of the inputs, and MiB that the first step of a fresh process takes on top of model and inputs."""
    torch.set_num_threads(setting.threads)
    micro_batch = None if form == PLAIN else setting.micro_batch
    objective, inputs = make(setting, config_of(setting.model, setting.num_frames), batch)
    Step(*make(setting, config_of("small"), 2), micro_batch and 1)()  # loads code: not this step's memory
    return _size(inputs) / 2**20, step_mib(Step(objective, inputs, micro_batch), setting.device)


def time_table(options: argparse.Namespace, setting: Setting) -> None:
    """Print what a step takes."""
    objective, inputs = make(setting, config_of(setting.model, setting.num_frames), options.time_batch)
    steps = {PLAIN: Step(objective, inputs, None), setting.cached: Step(objective, inputs, setting.micro_batch)}
    difference = _checked(steps[PLAIN], steps[setting.cached], setting.precision)
    spent = interleaved({name: Case(step) for name, step in steps.items()}, options.repeats, setting.device)
    rows = [
        [name, f"{statistics.median(times):.0f}", *ratio_cells(times, spent[PLAIN])] for name, times in spent.items()
    ]
    caption = f"The gradients of all parameters differ by {difference:.1e} of their norm."
    title = f"Time of a training step of {options.time_batch} clips"
    table(title, ["form", "ms", "ratio", "range"], rows, caption)


def make(setting: Setting, config: ClipVipConfig, batch: int) -> tuple[OmnisourceObjective, Batch]:
    """The objective with its model, and a batch of random inputs as the loader hands them over."""
    objective = OmnisourceObjective(
        build(config, setting.device).train(),
        LOSS,
        partial(to_pixel_values, image_size=config.vision.image_size),
        autocast=setting.precision == "bfloat16",
    )
    return objective, random_batch(config, batch).to(setting.device)


def random_batch(config: ClipVipConfig, batch: int) -> Batch:
    """All four sources, seeded; texts as long as recipes allow."""
    generator = torch.Generator().manual_seed(0)

    def pictures(num_frames: int) -> Tensor:
        shape = (batch, num_frames, config.vision.image_size, config.vision.image_size, 3)
        return torch.randint(256, shape, dtype=torch.uint8, generator=generator)

    def texts() -> TextBatch:
        ids = torch.randint(config.text.bos_token_id, (batch, TOKENS), generator=generator)
        ids[:, 0], ids[:, -1] = config.text.bos_token_id, config.text.eos_token_id
        return TextBatch(ids, torch.ones_like(ids), torch.ones(batch, dtype=torch.bool))

    return Batch(tuple(map(str, range(batch))), pictures(config.num_frames), pictures(1), texts(), texts())


def _size(batch: Batch) -> int:
    """Bytes."""
    sizes = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    batch.each(note)
    return sum(sizes)


def _checked(plain: Step, cached: Step, precision: str) -> float:
    """How much the gradients of two steps differ. Raises: SystemExit if they are not those of one loss."""
    loss = float(plain())
    expected = [parameter.grad for parameter in plain.objective.parameters()]
    other = float(cached())  # it starts with gradients of its own
    grads = [parameter.grad for parameter in cached.objective.parameters()]
    apart = sum(float((ours - theirs).double().square().sum()) for ours, theirs in zip(grads, expected, strict=True))
    difference = (apart / sum(float(theirs.double().square().sum()) for theirs in expected)) ** 0.5
    if not difference <= SAME[precision]:
        raise SystemExit(
            f"losses {loss:.6f} and {other:.6f}, gradients {difference:.1e} of their norm apart; nothing was timed"
        )
    return difference


def _measured(device: torch.device) -> str:
    if device.type == "cuda":
        return "tensors on the GPU"
    if RETURN_FROM in os.environ:
        return f"growth of the resident set, {RETURN_FROM}={os.environ[RETURN_FROM]}"
    return "growth of the resident set, with what the C library keeps of freed memory"


TABLES = {"memory": memory_table, "time": time_table}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="b32")
    parser.add_argument("--frames", type=int, help="frames a video (default: the model's own, 12 or 4)")
    parser.add_argument("--precision", choices=SAME, default="bfloat16", help="of activations, as in recipes")
    parser.add_argument(
        "--micro-batch", type=int, default=8, help="clips that gradient caching computes with at a time"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256], help="memory with gradient caching")
    parser.add_argument("--plain-batches", type=int, nargs="*", default=[8, 16, 32], help="memory without")
    parser.add_argument("--time-batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=FEWEST_REPEATS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="these tables")
    options = parser.parse_args()
    if options.model != "small" and options.repeats < FEWEST_REPEATS:
        parser.error(f"--repeats {options.repeats}: figures need at least {FEWEST_REPEATS} (--model small takes fewer)")
    counts = [*options.batches, *options.plain_batches, options.micro_batch, options.time_batch, options.repeats]
    if min(*counts, options.threads, 1 if options.frames is None else options.frames) < 1:
        parser.error("batches, --micro-batch, --frames, --repeats and --threads start at 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device")
    return options


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    setting = Setting(options.model, options.frames, options.precision, options.micro_batch, options.threads, device)
    num_frames = config_of(options.model, options.frames).num_frames
    inputs = f"clips of {num_frames} frames, one more and two texts of {TOKENS} tokens"
    print(describe(device, f"{options.model}, {options.precision}, {inputs}, medians of {options.repeats}"), flush=True)
    for name, print_table in TABLES.items():
        if name in options.only:
            print_table(options, setting)


if __name__ == "__main__":
    main()
