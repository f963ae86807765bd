"""The steps of a published run, each the same function that a verb calls, and what they leave in the work folder.

weights/                    the converted checkpoint (unless weights of your own are given)
train.jsonl, test.jsonl     manifests, val.jsonl where the data set has a validation split; *.check: their checks
run/                        the training run (see training.state)
evaluation.json             what `clipvip evaluate --output` writes
reproduce.json              which run this is, and the steps that are done, with seconds and findings
result.json                 the result
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clipvip.errors import ManifestError, UsageError
from clipvip.reproduce.definition import PublishedRun, Split
from clipvip.training.config import Recipe
from clipvip.training.recipes import load_recipe

_OWN_FIELDS = ("model.init", "data.train", "data.val", "data.videos", "data.on_decode_error", "profile")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a published run is repeated.

    data: the folder with its files; work: the folder for everything made. init: weights of your own in the place of the
    published ones. tokenizer: in the place of the published one (a folder, where the hub is out of reach). overrides:
    of the recipe. on_decode_error: "skip" goes on without the videos that are missing or cannot be decoded.
    """

    run: PublishedRun
    data: Path
    work: Path
    init: str | None = None
    tokenizer: str | None = None
    overrides: tuple[str, ...] = ()
    on_decode_error: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        for override in self.overrides:
            key = override.partition("=")[0]
            if key in _OWN_FIELDS:
                raise UsageError(f"{override}: {key} is what this run is about; leave it out")

    @property
    def weights(self) -> str:
        """What training starts from."""
        return self.init or str(self.work / "weights")

    @property
    def tokenizer_source(self) -> str:
        """Folder or hub id of the tokeniser."""
        return self.tokenizer or self.run.weights.tokenizer

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.work / "run" / "model"

    def manifest(self, split: str) -> Path:
        """Of one split."""
        return self.work / f"{split}.jsonl"

    @property
    def inputs(self) -> list[str]:
        """What the recipe leaves open."""
        val = [f"data.val={self.manifest('val')}"] if "val" in self.run.data.splits else []
        skip = ["data.on_decode_error=skip"] if self.on_decode_error == "skip" else []
        return [f"model.init={self.weights}", f"data.train={self.manifest('train')}", *val, *skip]

    @property
    def command(self) -> str:
        """What does all steps."""
        run = self.run.name if self.run.profile == "released" else f"{self.run.name}@{self.run.profile}"
        options = {"--data": self.data, "--workdir": self.work, "--init": self.init, "--tokenizer": self.tokenizer}
        given = [word for name, value in options.items() if value is not None for word in (name, value)]
        skip = ["--on-decode-error", "skip"] if self.on_decode_error == "skip" else []
        return _shell("reproduce", run, *self.overrides, *given, *skip)

    def recipe(self) -> Recipe:
        """As it will be trained. Raises: ConfigError."""
        return load_recipe(self.run.recipe, [*self.inputs, *self.overrides])


@dataclass(frozen=True, slots=True)
class Step:
    """One step. commands: what a person would type; run: does it, going on where it was interrupted, and returns its
    findings.
    """

    name: str
    about: str
    commands: Sequence[str]
    run: Callable[[Progress], dict[str, Any]] = field(repr=False)


Progress = Callable[[int, int], None]


def steps(settings: Settings) -> list[Step]:
    """What there is to do, in order."""
    run, recipe = settings.run, settings.recipe()
    splits = run.data.splits
    found = []
    if settings.init is None:
        source = settings.data / run.weights.file
        found.append(
            Step("weights", "the checkpoint becomes a model folder",
                 [_shell("convert", source, settings.weights, "--processor", settings.tokenizer_source)],
                 lambda progress: _convert(settings))
        )  # fmt: skip
    found += [
        Step("manifests", "annotation files become manifests", [_import_command(settings, name) for name in splits],
             lambda progress: {name: _import(settings, name) for name in splits}),
        Step("check", "can every video be decoded?", [_check_command(settings, name, recipe) for name in splits],
             lambda progress: {name: _check(settings, name, recipe, progress) for name in splits}),
        Step("train", f"fine-tuning ({recipe.hardware or 'any hardware'}; train.micro_batch=N fits less memory)",
             [_shell("train", run.recipe, *settings.inputs, *settings.overrides, "--workdir", settings.work / "run")],
             lambda progress: _train(settings, recipe)),
        Step("evaluate", "the test set, read once", [_evaluate_command(settings, recipe)],
             lambda progress: _evaluate(settings, recipe)),
    ]  # fmt: skip
    return found


def _convert(settings: Settings) -> dict[str, Any]:
    from clipvip.checkpoints import read_checkpoint
    from clipvip.checkpoints.processors import processor_for
    from clipvip.files import written_aside

    source, target = settings.data / settings.run.weights.file, Path(settings.weights)
    converted = read_checkpoint(str(source))
    processor = processor_for(converted, source, settings.tokenizer_source)
    if not target.exists():  # an interruption may have come just after it was made
        with written_aside(target) as path:
            converted.model.save_pretrained(path)
            processor.save_pretrained(path)
    return {"format": converted.report.format, "notes": list(converted.report.notes)}


def _import(settings: Settings, name: str) -> dict[str, Any]:
    from clipvip.data.importers import FORMATS, run_import

    split = settings.run.data.splits[name]
    report = run_import(
        FORMATS[split.format],
        [settings.data / source for source in split.sources],
        settings.manifest(name),
        videos=settings.data / settings.run.data.videos.folder,
        split=name,
        ids=settings.data / split.ids if split.ids else None,
        drop_missing=settings.on_decode_error == "skip",
    )
    if report.missing and settings.on_decode_error == "raise":
        raise ManifestError(
            f"{settings.data / settings.run.data.videos.folder}: {report.missing} of {report.clips} videos of {name} "
            f"are not there, such as {report.missing_examples[0]}; add them and give the same command again, or go on "
            "without them with --on-decode-error skip"
        )
    return {"clips": report.clips, "captions": report.captions, "missing": report.missing}


def _check(settings: Settings, name: str, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    from clipvip.data.check import check_manifest, default_work

    manifest = settings.manifest(name)
    report = check_manifest(
        manifest,
        quick=True,
        num_frames=recipe.model.num_frames,
        workers=max(1, recipe.data.num_workers),
        progress=progress,
    )
    unusable = [*report["missing"], *report["bad"]]
    if unusable and settings.on_decode_error == "raise":
        raise ManifestError(
            f"{manifest}: {len(unusable)} of {report['counts']['clips']} videos cannot be used, such as "
            f"{unusable[0]['clip_id']} ({unusable[0]['reason']}); put them right, delete {default_work(manifest)} and "
            "give the same command again; or go on without them with --on-decode-error skip"
        )
    return dict(report["counts"])


def _train(settings: Settings, recipe: Recipe) -> dict[str, Any]:
    from clipvip.training import train

    return train(recipe, settings.work / "run")


def _evaluate(settings: Settings, recipe: Recipe) -> dict[str, Any]:
    import json

    from clipvip.data.manifest import read_manifest
    from clipvip.encode import load
    from clipvip.evaluation import rank_retrieval, report_retrieval, run_retrieval
    from clipvip.files import replace_text

    encoder = load(settings.model, dtype="float32")
    found = run_retrieval(
        encoder,
        read_manifest(settings.manifest("test"), split="test"),
        join_captions=recipe.data.join_captions,
        progress=True,
        on_decode_error=settings.on_decode_error,
    )
    ties = "average"
    one_each = len(found.texts) == len(found.clips)  # all that the released code's figures are defined for
    figures = report_retrieval(found, rank_retrieval(found, rescore=("dsl",), ties=ties), ties=ties, released=one_each)
    report = {"fingerprint": encoder.fingerprint, "dtype": encoder.dtype, "sampling": encoder.sampling, **figures}
    replace_text(settings.work / "evaluation.json", json.dumps(report, indent=2) + "\n")
    return report


def _import_command(settings: Settings, name: str) -> str:
    split: Split = settings.run.data.splits[name]
    ids = ["--ids", settings.data / split.ids] if split.ids else []
    drop = ["--drop-missing"] if settings.on_decode_error == "skip" else []
    return _shell(
        "data", "import", split.format, *(settings.data / source for source in split.sources), *ids, "--split", name,
        "--videos", settings.data / settings.run.data.videos.folder, "--out", settings.manifest(name), *drop,
    )  # fmt: skip


def _check_command(settings: Settings, name: str, recipe: Recipe) -> str:
    frames, workers = recipe.model.num_frames, max(1, recipe.data.num_workers)
    return _shell("data", "check", settings.manifest(name), "--quick", "--num-frames", frames, "--workers", workers)


def _evaluate_command(settings: Settings, recipe: Recipe) -> str:
    join = ["--join-captions"] if recipe.data.join_captions else []
    skip = ["--on-decode-error", "skip"] if settings.on_decode_error == "skip" else []
    return _shell(
        "evaluate", "--model", settings.model, "--data", settings.manifest("test"), "--split", "test", *join, *skip,
        "--rescore", "dsl", "--dtype", "float32", "--output", settings.work / "evaluation.json",
    )  # fmt: skip


def _shell(*words: object) -> str:
    return shlex.join(["clipvip", *map(str, words)])
