"""`result.json`: what a stranger can send us, and we can check. It holds no paths and no names of users or machines."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from clipvip.files import file_digest
from clipvip.reproduce.environment import hardware
from clipvip.reproduce.inventory import take_stock
from clipvip.reproduce.steps import Settings
from clipvip.training.listing import Listing, describe
from clipvip.training.state import MAY_CHANGE
from clipvip.versions import commit, versions

FORMAT_VERSION = 1
PACKAGES = ("clipvip", "torch", "numpy", "transformers", "accelerate", "av")
_PATHS = ("model.init", "model.tokenizer", "data.train", "data.val", "data.videos")
_MIX_PATHS = ("data", "videos")
"""Of each source in data.mix."""
_OTHERS = (*MAY_CHANGE, "train.seed")
"""Fields with which a run may differ and is no other run."""


def make_result(settings: Settings, steps: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """steps: the findings of all steps, as `reproduce.json` keeps them."""
    run, evaluation = settings.run, steps["evaluate"]
    stock, differs = take_stock(settings)
    fields = _without_paths(describe(run.recipe, [*settings.inputs, *settings.overrides]))
    published = _without_paths(describe(f"{run.figures.recipe}@released", settings.inputs))
    changed = {
        field: {"published": published[field], "used": value}
        for field, value in fields.items()
        if value != published[field] and field not in _OTHERS
    }
    differs += [f"{field}: {pair['used']!r}, published with {pair['published']!r}" for field, pair in changed.items()]
    if settings.init is not None:
        differs.append("the weights to start from are not the published checkpoint")
    if (settings.recipe().model.tokenizer or settings.tokenizer) not in (None, run.weights.tokenizer):
        differs.append(f"the tokeniser was given, and is not known to be the published {run.weights.tokenizer}")
    differs += _other_counts(settings, steps["manifests"])
    differs += _left_out(evaluation, steps["train"])
    low, high = run.band
    recall = evaluation["plain"]["t2v"]["R@1"]
    return {
        "format_version": FORMAT_VERSION,
        "run": run.name,
        "recipe": run.recipe,
        "verdict": {
            "R@1": recall,
            "interval": evaluation["intervals"]["plain"]["t2v"]["R@1"],
            "paper": run.paper,
            "band": [low, high],
            "inside": low <= recall <= high,
            "comparable": not differs,
            "differs": differs,
        },
        "figures": {key: value for key, value in evaluation.items() if key not in ("skipped", "step_seconds")},
        "skipped": {"train": len(steps["train"]["skipped"]), "test": len(evaluation["skipped"])},
        "manifests": {key: value for key, value in steps["manifests"].items() if key != "step_seconds"},
        "training": {key: steps["train"][key] for key in ("steps", "clips", "seconds", "best_val_R@1", "selected")},
        "settings": fields,
        "seconds": {name: findings["step_seconds"] for name, findings in steps.items()},
        "files": stock,
        "model": {
            "fingerprint": evaluation["fingerprint"],
            "sha256": file_digest(settings.model / "model.safetensors"),
        },
        "versions": versions(*PACKAGES),
        "commit": commit(),
        "hardware": hardware(),
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _without_paths(listing: Listing) -> dict[str, Any]:
    fields = listing.settings()
    mix = [{key: value for key, value in source.items() if key not in _MIX_PATHS} for source in fields["data.mix"]]
    return {field: value for field, value in (fields | {"data.mix": mix}).items() if field not in _PATHS}


def _other_counts(settings: Settings, manifests: Mapping[str, Any]) -> list[str]:
    """Where a split has other sizes than the public ones."""
    told = []
    for name, split in settings.run.data.splits.items():
        for what, public in (("clips", split.clips), ("captions", split.captions)):
            count = manifests[name][what]
            if public and count not in public:
                told.append(f"{name}: {count:,} {what}, published with {' or '.join(f'{size:,}' for size in public)}")
        if manifests[name]["missing"]:
            told.append(f"{name}: videos that were missing: {manifests[name]['missing']:,}")
    return told


def _left_out(evaluation: Mapping[str, Any], training: Mapping[str, Any]) -> list[str]:
    counts = {"train": len(training["skipped"]), "test": len(evaluation["skipped"])}
    return [f"{name}: videos that could not be decoded: {count:,}" for name, count in counts.items() if count]
