"""How `clipvip train --dry-run` looks: a few aligned lines for people, and the recipe in YAML below them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

GIB, MIB = 2**30, 2**20
Rows = Iterator[tuple[str, str]]


def as_text(plan: dict[str, Any]) -> str:
    """What `training.plan.plan` returns."""
    import yaml

    sections = {"model": _model(plan), "data": _data(plan), "memory, a process": _memory(plan), "time": _time(plan)}
    lines = [f"{plan['recipe']['about']}\n"] if plan["recipe"]["about"] else []
    for name, rows in sections.items():
        lines += [name, *(f"  {label:<14}{text}" for label, text in rows)]
    lines += [f"note: {note}" for note in plan["notes"]]
    return "\n".join([*lines, "\n# the recipe, resolved", yaml.safe_dump(plan["recipe"], sort_keys=False).rstrip()])


def _model(plan: dict[str, Any]) -> Rows:
    model, first = plan["model"], plan["data"]["sources"][0]
    size, parameters, flops = model["image_size"], model["parameters"], model["flops"]
    proxies = f", {model['num_proxies']} proxy tokens" if model["num_proxies"] > 1 else ""
    yield "aggregator", f"{model['aggregator']}{proxies}, patches of {model['patch_size']}"
    yield "a clip", f"{first['num_frames']} frames of {size}x{size}, texts of {first['num_tokens']} tokens"
    yield "parameters", f"{parameters['total']:,}, of them {parameters['new']:,} that CLIP-ViP adds to CLIP"
    yield (
        "FLOPs a clip",
        f"{_short(flops['forward_per_clip'])} forward, {_short(flops['training_per_clip'])} in training",
    )
    yield "FLOPs a step", _short(flops["training_per_step"])


def _data(plan: dict[str, Any]) -> Rows:
    data = plan["data"]
    for source in data["sources"]:
        share = f", {source['num_steps']:,} steps" if len(data["sources"]) > 1 else ""
        yield "clips", f"{source['num_clips']:,} of {source['data']}{share}"
    yield (
        "steps",
        f"{data['num_steps']:,} of {data['batch_size']:,} clips: {data['num_passes']:g} passes over data.train",
    )
    parts = f", {data['micro_batch']} at once (micro_batch)" if data["micro_batch"] else ""
    yield (
        "processes",
        f"{data['num_processes']} on {plan['memory']['device']}, {data['clips_per_process']:,} clips each{parts}",
    )


def _memory(plan: dict[str, Any]) -> Rows:
    memory, data = plan["memory"], plan["data"]
    fixed, clip = memory["fixed"], memory["per_clip"]
    at_once = data["micro_batch"] or data["clips_per_process"]
    yield "weights", f"{_size(sum(fixed.values()))} with gradients, AdamW and copies for computing"
    again = f", {_size(clip['recomputed'])} while a block is recomputed" if clip["recomputed"] else ""
    yield "a clip", f"{_size(clip['activations'])} of activations, measured{again}"
    free = "" if memory["free"] is None else f"; {_size(memory['free'])} are free"
    yield "estimate", f"{_size(memory['estimate'])} with {at_once:,} clips at once{free}"
    what = "of the whole process, interpreter and all" if memory["device"] == "cpu" else "of its tensors"
    yield "peak", f"{_size(memory['peak'])}, measured, {what}"


def _time(plan: dict[str, Any]) -> Rows:
    times, num_steps = plan["time"], plan["data"]["num_steps"]
    if times is None:
        yield "a step", "not timed: it does not fit"
        return
    yield (
        "a step",
        f"{times['step_s']:.3g} s (median of {times['num_timed']}), {times['data_wait']:.0%} of it waiting for data",
    )
    yield "rate", f"{times['clips_per_s']:,.1f} clips/s, MFU {times['mfu']:.1%}"
    rest = times["not_counted"]
    others = (
        [f"validations ({rest['validations']} of {rest['validation_clips']:,} clips)"] if rest["validations"] else []
    )
    others += [f"{name} ({rest[name]})" for name in ("checkpoints", "snapshots") if rest[name]]
    yield "the run", f"{_duration(times['run_s'])} for {num_steps:,} steps; not in it: start-up, {', '.join(others)}"


def _short(count: float) -> str:
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f}"


def _size(count: float) -> str:
    return f"{count / GIB:,.2f} GiB" if count >= GIB else f"{count / MIB:,.1f} MiB"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
