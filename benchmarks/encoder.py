"""The encoder's speed and memory against named peers, as Markdown tables for docs/benchmarks.md.

Paired and interleaved in one process. Ratios are medians over rounds of peer / row: above 1 is faster (or smaller)
than the peer, the row whose ratio is 1.00. Every form that computes the same embedding is checked to do so first.

    python benchmarks/encoder.py [--model b32|b16|small] [--batch 2] [--frames N] [--repeats 7] [--threads 1]
        [--device cpu|cuda] [--compile] [--flex] [--only ceiling inference training memory text] [--forms NAME ...]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from unittest import mock

import torch
from measure import (
    Case,
    best_of,
    ceilings,
    describe,
    in_own_process,
    interleaved,
    ratio_cells,
    step_mib,
    table,
    tower_flops,
)
from peers import (
    SIZES,
    DenseMask,
    FlexTower,
    Training,
    build,
    clip_text,
    clip_vision,
    compile_blocks,
    config_of,
    random_pixels,
    training_step,
)
from torch import Tensor

from clipvip.model import ClipVipConfig, ClipVipModel
from clipvip.model.kernels import inference

SAME = 1e-4
"""Largest difference between unit-norm embeddings of two float32 forms of one model."""
FEWEST_REPEATS = 7
TEXTS, REAL_TOKENS, PADDED_TO = 64, 12, 70
SHORT = {"fp32": "float32", "bf16": "bfloat16"}
TIMES = ["form", "ms", "ratio", "range"]
T = TypeVar("T")
DIFFERENCE = "Difference: of unit-norm embeddings, to clipvip, fp32."

CLIP = "transformers CLIPVisionModel, fp32"
DENSE = "dense mask in transformers' layers, fp32"
TRAINING = {
    CLIP: Training("clip"),
    DENSE: Training("dense"),
    "clipvip, fp32": Training("vip"),
    "clipvip, bf16 autocast": Training("vip", bf16=True),
    "clipvip, bf16 autocast, checkpointing": Training("vip", bf16=True, checkpointing=True),
}
TRAINING_CUDA = {"dense mask in transformers' layers, bf16 autocast": Training("dense", bf16=True)}
TRAINING_COMPILED = {"clipvip, bf16 autocast, compiled": Training("vip", bf16=True, compiled=True)}


@dataclass
class Bench:
    """What all tables share. rates: the ceilings, empty if no chosen table needs them."""

    options: argparse.Namespace
    config: ClipVipConfig
    device: torch.device
    rates: dict[str, float]

    def build(self) -> ClipVipModel:
        """The model, always with the same weights."""
        return build(self.config, self.device)

    def tuned(self, dtype: str) -> ClipVipModel:
        """The model, optimised for inference."""
        return self.build().optimize_for_inference(dtype)

    def tuned_to_compile(self, dtype: str) -> ClipVipModel:
        """The same with the default kernels: torch.compile fails on weights that oneDNN has packed."""
        with mock.patch.object(inference, "prefers_onednn", return_value=False):
            return self.tuned(dtype)

    def pixels(self) -> Tensor:
        """The videos, [B, T, 3, H, W]."""
        return random_pixels(self.config, self.options.batch, self.device)

    def chosen(self, rows: dict[str, T], peer: str) -> dict[str, T]:
        """The rows that --forms names, and the peer's. Raises: SystemExit if it names none of them."""
        wanted = self.options.forms or list(rows)
        if not set(wanted) & set(rows):
            raise SystemExit(f"--forms: none of them is a row of this table; its rows: {'; '.join(rows)}")
        return {name: row for name, row in rows.items() if name == peer or name in wanted}

    def time(self, cases: dict[str, Case]) -> dict[str, list[float]]:
        """Milliseconds of each case in each round."""
        return interleaved(cases, self.options.repeats, self.device)

    def rate_cells(self, case: Case, times: list[float], training: bool) -> list[str]:
        """GFLOP/s, and which part of the ceiling that is."""
        flops = tower_flops(self.config, self.options.batch, self.config.num_frames, training)
        rate = flops / (statistics.median(times) * 1e6)
        return [f"{rate:.1f}", f"{rate / best_of(self.rates, case.dtype):.2f}"]


def ceiling_table(bench: Bench) -> None:
    """Print how fast this machine multiplies matrices of the tower's shapes."""
    rows = [[name, f"{rate:.1f}"] for name, rate in bench.rates.items()]
    caption = "All linear layers of the tower, each shape timed with one weight matrix."
    table("Ceiling: matrix products of the vision tower's linear layers", ["kernel", "GFLOP/s"], rows, caption)


def inference_table(bench: Bench) -> None:
    """Print the vision tower's inference."""
    options, pixels, model = bench.options, bench.pixels(), bench.build()
    cases = {CLIP: Case(_clip_inference(bench, pixels))}
    if bench.device.type == "cuda":
        cases["transformers CLIPVisionModel, bf16"] = Case(_clip_inference(bench, pixels, torch.bfloat16), "bfloat16")
    cases[DENSE] = Case(partial(DenseMask(model), pixels))
    cases["clipvip, fp32"] = Case(partial(model.encode_video, pixels))
    for short, dtype in SHORT.items():
        name = f"clipvip optimised, {short}"
        cases[name] = Case(partial(bench.tuned(dtype).encode_video, pixels), dtype)
        if options.compile:
            compiled = compile_blocks(bench.tuned_to_compile(dtype))
            cases[f"{name}, compiled"] = Case(partial(compiled.encode_video, pixels), dtype, compiled=True)
        if options.flex:
            flex = FlexTower(bench.tuned_to_compile(dtype))
            cases[f"{name}, flex_attention, compiled"] = Case(partial(flex, pixels), dtype, compiled=True)
    cases = bench.chosen(cases, CLIP)
    with torch.inference_mode():
        differences = _differences(cases, model.encode_video(pixels))
        spent = bench.time(cases)
    rows = [
        [*_time_cells(name, spent, CLIP), *bench.rate_cells(case, spent[name], training=False), differences[name]]
        for name, case in cases.items()
    ]
    headings = [*TIMES, "GFLOP/s", "of ceiling", "max abs difference"]
    caption = f"{_flops_caption(bench, training=False)} {DIFFERENCE}"
    table("Inference of the vision tower", headings, rows, caption)


def training_table(bench: Bench) -> None:
    """Print the vision tower's training step."""
    forms = dict(TRAINING)
    if bench.device.type == "cuda":
        forms |= TRAINING_CUDA
    if bench.options.compile:
        forms |= TRAINING_COMPILED
    forms = bench.chosen(forms, DENSE)
    pixels, model = bench.pixels(), bench.build()
    with torch.no_grad():
        _differences({DENSE: Case(partial(DenseMask(model), pixels))}, model.encode_video(pixels))
    cases = {
        name: Case(training_step(form, model, pixels), "bfloat16" if form.bf16 else "float32", form.compiled)
        for name, form in forms.items()
    }
    spent = bench.time(cases)
    rows = [
        [*_time_cells(name, spent, DENSE), *bench.rate_cells(case, spent[name], training=True)]
        for name, case in cases.items()
    ]
    caption = f"{_flops_caption(bench, training=True)} Recomputation by checkpointing is not counted."
    title = "Training step of the vision tower: forward and backward"
    table(title, [*TIMES, "GFLOP/s", "of ceiling"], rows, caption)


def memory_table(bench: Bench) -> None:
    """Print the peak memory of a training step."""
    options, names = bench.options, [name for name in TRAINING if name != CLIP]
    size = (options.model, bench.config.num_frames, options.batch, options.threads, bench.device)
    peaks = {name: in_own_process(step_memory, TRAINING[name], *size) for name in names}
    rows = [[name, f"{mib:.0f}", f"{peaks[DENSE] / mib:.2f}"] for name, mib in peaks.items()]
    caption = (
        "Each form in a process of its own: what its first step takes on top of model and videos, with the float32 "
        "gradients of the vision tower and without an optimiser."
    )
    table("Peak memory of a training step", ["form", "MiB", "ratio"], rows, caption)


def step_memory(form: Training, size: str, num_frames: int, batch: int, threads: int, device: torch.device) -> float:
    """MiB that the first training step of a fresh process takes on top of model and videos."""
    torch.set_num_threads(threads)
    model, pixels = (
        build(config_of(size, num_frames), device),
        random_pixels(config_of(size, num_frames), batch, device),
    )
    small = config_of("small")
    training_step(form, build(small, device), random_pixels(small, 1, device))()  # loads code: not this step's memory
    return step_mib(training_step(form, model, pixels), device)


def text_table(bench: Bench) -> None:
    """Print the text tower's inference on short texts in long rows, as tokenisers pad them."""
    text, model, peer = bench.config.text, bench.build(), "transformers CLIPTextModel, fp32"
    ids = torch.full((TEXTS, PADDED_TO), text.eos_token_id)
    ids[:, 0] = text.bos_token_id
    ids[:, 1 : REAL_TOKENS - 1] = torch.randint(text.bos_token_id, (TEXTS, REAL_TOKENS - 2))
    mask = (torch.arange(PADDED_TO) < REAL_TOKENS).long().repeat(TEXTS, 1)
    ids, mask = ids.to(bench.device), mask.to(bench.device)
    cases = {
        peer: Case(partial(clip_text(model), ids, mask)),
        "clipvip, fp32": Case(partial(model.encode_text, ids, mask)),
    }
    for short, dtype in SHORT.items():
        cases[f"clipvip optimised, {short}"] = Case(partial(bench.tuned(dtype).encode_text, ids, mask), dtype)
    with torch.inference_mode():
        differences = _differences(cases, model.encode_text(ids, mask))
        spent = bench.time(cases)
    rows = [[*_time_cells(name, spent, peer), differences[name]] for name in cases]
    title = f"Text: {TEXTS} texts of {REAL_TOKENS} tokens, padded to {PADDED_TO}"
    table(title, [*TIMES, "max abs difference"], rows, f"Projection and unit norm included. {DIFFERENCE}")


def _clip_inference(bench: Bench, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Callable[[], None]:
    peer, frames = clip_vision(bench.config, bench.device).to(dtype), pixels.flatten(0, 1).to(dtype)

    def step() -> None:
        peer(pixel_values=frames)

    return step


def _time_cells(name: str, spent: dict[str, list[float]], peer: str) -> list[str]:
    return [name, f"{statistics.median(spent[name]):.1f}", *ratio_cells(spent[peer], spent[name])]


def _differences(cases: dict[str, Case], expected: Tensor) -> dict[str, str]:
    """Largest difference of each case's embeddings. Raises: SystemExit if a float32 case computes something else."""
    cells = {}
    for name, case in cases.items():
        embeds = case.step()
        if embeds is None:
            cells[name] = "another model"
            continue
        difference = float((embeds.float() - expected).abs().max())
        if case.dtype == "float32" and not difference <= SAME:
            raise SystemExit(f"{name}: embeddings differ by {difference:.1e} from clipvip's; nothing was timed")
        cells[name] = f"{difference:.1e}"
    return cells


def _flops_caption(bench: Bench, training: bool) -> str:
    flops = tower_flops(bench.config, 1, bench.config.num_frames, training)
    tops = ", ".join(f"{best_of(bench.rates, dtype):.1f} in {dtype}" for dtype in ("float32", "bfloat16"))
    return f"GFLOP/s: of the {flops / 1e9:.2f} GFLOP a clip that the video tower needs. Ceiling: {tops}."


TABLES = {
    "ceiling": ceiling_table,
    "inference": inference_table,
    "training": training_table,
    "memory": memory_table,
    "text": text_table,
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="b32")
    parser.add_argument("--batch", type=int, default=2, help="videos")
    parser.add_argument("--frames", type=int, help="frames a video (default: the model's own, 12 or 4)")
    parser.add_argument("--repeats", type=int, default=FEWEST_REPEATS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="also with compiled blocks")
    parser.add_argument("--flex", action="store_true", help="also with flex_attention")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="these tables")
    parser.add_argument("--forms", nargs="+", metavar="NAME", help="these rows of inference and training, and the peer")
    options = parser.parse_args()
    if options.model != "small" and options.repeats < FEWEST_REPEATS:
        parser.error(f"--repeats {options.repeats}: figures need at least {FEWEST_REPEATS} (--model small takes fewer)")
    if min(options.batch, options.repeats, options.threads, 1 if options.frames is None else options.frames) < 1:
        parser.error("--batch, --frames, --repeats and --threads start at 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device")
    return options


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config, device = config_of(options.model, options.frames), torch.device(options.device)
    setting = f"{options.model}, {options.batch} x {config.num_frames} frames, medians of {options.repeats}"
    print(describe(device, setting), flush=True)
    needs_rates = {"ceiling", "inference", "training"} & set(options.only)
    rates = ceilings(config, options.batch, options.repeats, device) if needs_rates else {}
    bench = Bench(options, config, device, rates)
    for name, print_table in TABLES.items():
        if name in options.only:
            print_table(bench)


if __name__ == "__main__":
    main()
