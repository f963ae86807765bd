"""How the benchmarks measure: interleaved timings, peak memory, the machine and its ceiling."""

from __future__ import annotations

import ctypes
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from clipvip.model import ClipVipConfig
from clipvip.model.kernels import inference
from clipvip.training.meter import video_flops, vision_layers
from clipvip.versions import commit

WARMUPS = 2
WARMUPS_COMPILED = 4
PACKED = ", oneDNN packed"
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """Something to time. step: returns the embeddings if they are comparable; dtype: the ceiling it is held against."""

    step: Callable[[], Tensor | None]
    dtype: str = "float32"
    compiled: bool = False


@dataclass(frozen=True)
class Spent:
    """What one run of a step took; the processor time is that of all threads of this process."""

    wall_ms: float
    cpu_ms: float


def interleaved(cases: dict[str, Case], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of each case in each of `repeats` rounds, as `interleaved_spent` takes them."""
    spent = interleaved_spent(cases, repeats, device)
    return {name: [step.wall_ms for step in steps] for name, steps in spent.items()}


def interleaved_spent(cases: dict[str, Case], repeats: int, device: torch.device) -> dict[str, list[Spent]]:
    """What each case took in each of `repeats` rounds; a round runs every case once, every other one backwards.

    What slows the machine for a while then slows all cases of a round: compare within rounds. Each timed step follows
    one of its own kind: what another case left in caches and allocator is not its cost.
    """
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for case in cases.values():
        for _ in range(WARMUPS_COMPILED if case.compiled else WARMUPS):
            case.step()
    spent: dict[str, list[Spent]] = {name: [] for name in cases}
    for i in range(repeats):
        for name in list(cases)[:: 1 if i % 2 == 0 else -1]:
            cases[name].step()
            wait()
            start, cpu_start = time.perf_counter(), time.process_time()
            cases[name].step()
            wait()
            wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
            spent[name].append(Spent(1000 * wall_s, 1000 * cpu_s))
    return spent


def ratio_cells(peer: Sequence[float], ours: Sequence[float]) -> list[str]:
    """Median and range over rounds of peer / ours."""
    ratios = [theirs / mine for theirs, mine in zip(peer, ours, strict=True)]
    return [f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
    """Print a Markdown section."""
    lines = [headings, ["---"] * len(headings), *rows]
    print(f"\n### {title}\n", *("| " + " | ".join(line) + " |" for line in lines), f"\n{caption}", sep="\n", flush=True)


def tower_flops(config: ClipVipConfig, batch: int, num_frames: int, training: bool = False) -> float:
    """Operations of the video tower for a batch: forward, or forward and backward."""
    return batch * video_flops(config, num_frames, training=training)


def ceilings(config: ClipVipConfig, batch: int, repeats: int, device: torch.device) -> dict[str, float]:
    """GFLOP/s of the machine's matrix products on the tower's own shapes, by kernel: `DTYPE` or `DTYPE, oneDNN packed`.

    Each shape is timed with one weight matrix and weighted by how often the tower has it: all its linear layers'
    operations over the sum of their medians.
    """
    milliseconds: dict[str, float] = {}
    layers = vision_layers(config, config.num_frames, batch)
    for layer in layers:
        cases = {}
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            x = torch.randn(layer.rows, layer.inputs, device=device).to(dtype)
            weight = torch.randn(layer.outputs, layer.inputs, device=device).to(dtype)
            bias = torch.randn(layer.outputs, device=device).to(dtype)
            cases[name] = Case(partial(F.linear, x, weight, bias))
            if device.type == "cpu" and (packed := inference._packed(weight, bias)) is not None:
                cases[name + PACKED] = Case(partial(packed, x))
        with torch.inference_mode():
            spent = interleaved(cases, repeats, device)
        for name, times in spent.items():
            milliseconds[name] = milliseconds.get(name, 0.0) + layer.count * statistics.median(times)
    flops = sum(layer.flops for layer in layers)
    return {name: flops / (total * 1e6) for name, total in sorted(milliseconds.items(), reverse=True)}


def best_of(rates: dict[str, float], dtype: str) -> float:
    """The ceiling of a dtype: its fastest kernel."""
    return max(rate for name, rate in rates.items() if name.startswith(dtype))


def in_own_process(work: Callable[..., T], *arguments: object) -> T:
    """`work(*arguments)`, done by a fresh interpreter: memory that something else touched here is not there."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def resident_mib(field: str = "VmRSS") -> float:
    """This process's resident memory now ("VmRSS") or at its peak ("VmHWM"), in MiB.

    Not `ru_maxrss`: Linux hands that of the parent down to a spawned process. Raises: OSError where there is no /proc.
    """
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def forget_peak() -> float:
    """Start counting "VmHWM" of this process anew, and return where it starts: the memory in use now, in MiB.

    What the C library keeps of freed memory goes back to the system first: it would hide that it is used again.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident_mib()


def step_mib(step: Callable[[], object], device: torch.device) -> float:
    """MiB that a step takes at its peak on top of what there is before it: a GPU's tensors, or this process's memory.

    On a CPU only the first step of a process that has touched little before tells: see `in_own_process`.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    before_mib = forget_peak()
    step()
    return resident_mib("VmHWM") - before_mib


def describe(device: torch.device, setting: str) -> str:
    """Where and with what figures were taken, in one line; `setting` is the caller's part of it."""
    if device.type == "cuda":
        machine = f"{torch.cuda.get_device_name(device)}, float32 matmul {torch.get_float32_matmul_precision()}"
    else:
        machine = f"{_cpu_name()}, threads: {torch.get_num_threads()}"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    found = commit()
    code = f"{found['hash'][:7]}{'-dirty' if found['changed'] else ''}" if found else "unknown"
    return f"{versions}; {machine}; {setting}; commit {code}"


def _cpu_name() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        info = ""
    name = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    bf16 = [flag for flag in ("avx512_bf16", "amx_bf16") if re.search(rf"\b{flag}\b", info)]
    level = torch.backends.cpu.get_cpu_capability()
    return f"{name[1] if name else 'unknown CPU'} ({level}, bf16 instructions: {' '.join(bf16) or 'none found'})"
