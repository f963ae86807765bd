"""`result.json`: what anyone can send us, and we can check. It holds no paths and no names of users or machines."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from clipvip.data import iter_manifest
from clipvip.files import file_digest
from clipvip.reproduce.run import Settings, file_problem
from clipvip.training.listing import describe
from clipvip.training.state import MAY_CHANGE
from clipvip.versions import commit, versions

FORMAT_VERSION = 1
PACKAGES = ("clipvip", "torch", "numpy", "transformers", "accelerate", "av")
_PATHS = ("model.init", "model.tokenizer", "data.train", "data.val", "data.videos")
_MIX_PATHS = ("data", "videos")
_OTHERS = (*MAY_CHANGE, "train.seed")  # a run with other values of these is no other run
_NO_FIGURES = ("model", "data", "split", "join_captions", "num_clips", "skipped", "step_seconds")


def make_result(settings: Settings, steps: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The result of all steps. steps: their findings, as `reproduce.json` keeps them."""
    run, evaluation, training = settings.run, steps["evaluate"], steps["train"]
    used = _settings(run.recipe, [*settings.inputs, *settings.overrides])
    stock = _take_stock(settings)
    differs = list(_differences(settings, steps, stock, used))
    recall = evaluation["plain"]["t2v"]["R@1"]
    return {
        "format_version": FORMAT_VERSION,
        "run": run.name,
        "recipe": run.recipe,
        "verdict": {
            "R@1": recall,
            "interval": evaluation["intervals"]["plain"]["t2v"]["R@1"],
            "paper": run.paper,
            "band": list(run.band),
            "inside": run.band[0] <= recall <= run.band[1],
            "comparable": not differs,
            "differs": differs,
        },
        "figures": {key: value for key, value in evaluation.items() if key not in _NO_FIGURES},
        "skipped": {"train": len(training["skipped"]), "test": len(evaluation["skipped"])},
        "manifests": {key: value for key, value in steps["manifests"].items() if key != "step_seconds"},
        "training": {key: training[key] for key in ("steps", "clips", "seconds", "best_val_R@1", "selected")},
        "settings": used,
        "seconds": {name: findings["step_seconds"] for name, findings in steps.items()},
        "files": stock,
        "model": {
            "fingerprint": evaluation["fingerprint"],
            "sha256": file_digest(settings.work / "run" / "model" / "model.safetensors"),
        },
        "versions": versions(*PACKAGES),
        "commit": commit(),
        "hardware": _hardware(),
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _differences(
    settings: Settings, steps: Mapping[str, Mapping[str, Any]], stock: Mapping[str, Any], used: Mapping[str, Any]
) -> Iterator[str]:
    """In what the run is not the published one: files, recipe fields, weights, tokeniser, clips."""
    run = settings.run
    for file in settings.published_files:
        if problem := file_problem(file, settings.data / file.file, stock[file.file]["sha256"]):
            yield problem
    published = _settings(f"{run.figures.recipe}@released", settings.inputs)
    for field, value in used.items():
        if value != published[field] and field not in _OTHERS:
            yield f"{field}: {value!r}, published with {published[field]!r}"
    if settings.init is not None:
        yield "the weights to start from are not the published checkpoint"
    if (settings.recipe().model.tokenizer or settings.tokenizer) not in (None, run.weights.tokenizer):
        yield f"the tokeniser was given, and is not known to be the published {run.weights.tokenizer}"
    for name, split in run.data.splits.items():
        manifest = steps["manifests"][name]
        for what, public in (("clips", split.clips), ("captions", split.captions)):
            if public and manifest[what] not in public:
                counts = " or ".join(f"{count:,}" for count in public)
                yield f"{name}: {manifest[what]:,} {what}, published with {counts}"
        if manifest["missing"]:
            yield f"{name}: videos that were missing: {manifest['missing']:,}"
    for name, step in (("train", "train"), ("test", "evaluate")):
        if skipped := steps[step]["skipped"]:
            yield f"{name}: videos that could not be decoded: {len(skipped):,}"


def _settings(source: str, overrides: list[str]) -> dict[str, Any]:
    """The fields of a recipe that are no paths."""
    fields = describe(source, overrides).settings()
    mix = [{key: value for key, value in source.items() if key not in _MIX_PATHS} for source in fields["data.mix"]]
    return {field: value for field, value in (fields | {"data.mix": mix}).items() if field not in _PATHS}


def _take_stock(settings: Settings) -> dict[str, Any]:
    """Sizes and SHA-256 of all files; "videos": of the sorted lines "NAME SIZE" of the files in the manifests."""
    stock: dict[str, Any] = {}
    for file in settings.published_files:
        path = settings.data / file.file
        known = path.is_file()
        stock[file.file] = {
            "bytes": path.stat().st_size if known else None,
            "sha256": file_digest(path) if known else None,
        }
    clips = (clip for split in settings.run.data.splits for clip in iter_manifest(settings.manifest(split)))
    sizes = {clip.path.name: clip.path.stat().st_size for clip in clips if clip.path.is_file()}
    lines = "".join(f"{name} {size}\n" for name, size in sorted(sizes.items()))
    digest = hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()
    return stock | {"videos": {"files": len(sizes), "bytes": sum(sizes.values()), "names_and_sizes_sha256": digest}}


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    cpu, memory_gib = platform.processor() or platform.machine(), None
    with suppress(OSError, IndexError):
        cpu = re.findall(r"^model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)[0]
    with suppress(ValueError, OSError, AttributeError):  # not on all systems
        memory_gib = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": memory_gib,
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
    }
