"""A published run from its files to its result. Each step is verbs of the command line, and is done once.

What a work folder has:
weights/                    the converted checkpoint (unless other weights are given)
train.jsonl, test.jsonl     manifests, val.jsonl where the data set has a validation split; *.check: their checks
run/                        the training run (see training.state)
evaluation.json             what `clipvip evaluate --output` writes
reproduce.json              which run this is, and the steps that are done, with seconds and findings
result.json                 the result
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipvip.errors import ManifestError, UsageError
from clipvip.files import locked, parse_json, replace_text
from clipvip.reproduce.definition import PublishedFile, PublishedRun
from clipvip.training.config import Recipe
from clipvip.training.recipes import load_recipe

RunVerb = Callable[[Sequence[str]], str]
"""Runs the words after `clipvip` and returns what they print on stdout."""
_OWN_FIELDS = ("model.init", "data.train", "data.val", "data.videos", "data.on_decode_error", "profile")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a published run is repeated.

    data: the folder with its files; work: the folder for everything made. init: other weights in place of the
    published ones. tokenizer: in place of the published one (a folder, where the hub is out of reach). overrides:
    of the recipe. on_decode_error: "skip" leaves out the videos that are missing or cannot be decoded.
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
    def skip(self) -> list[str]:
        """The option of verbs that leaves out videos."""
        return ["--on-decode-error", "skip"] if self.on_decode_error == "skip" else []

    @property
    def inputs(self) -> list[str]:
        """What the recipe leaves open."""
        val = [f"data.val={self.manifest('val')}"] if "val" in self.run.data.splits else []
        skip = ["data.on_decode_error=skip"] if self.skip else []
        weights = self.init or self.work / "weights"
        return [f"model.init={weights}", f"data.train={self.manifest('train')}", *val, *skip]

    @property
    def command(self) -> str:
        """The command that does all steps."""
        run = self.run.name if self.run.profile == "released" else f"{self.run.name}@{self.run.profile}"
        options = {"--data": self.data, "--workdir": self.work, "--init": self.init, "--tokenizer": self.tokenizer}
        words = [str(word) for option in options.items() if option[1] is not None for word in option]
        return shlex.join(["clipvip", "reproduce", run, *self.overrides, *words, *self.skip])

    @property
    def published_files(self) -> list[PublishedFile]:
        """All files that the run needs but the videos; the checkpoint only if it starts from it."""
        return [*self.run.data.files, *([self.run.weights] if self.init is None else [])]

    def manifest(self, split: str) -> Path:
        """The manifest of one split."""
        return self.work / f"{split}.jsonl"

    def recipe(self) -> Recipe:
        """The recipe to train. Raises: ConfigError."""
        return load_recipe(self.run.recipe, [*self.inputs, *self.overrides])


@dataclass(frozen=True, slots=True)
class Step:
    """One step. verbs: what follows `clipvip`, for each split or for the whole step ("")."""

    name: str
    about: str
    verbs: dict[str, list[object]]

    @property
    def commands(self) -> list[str]:
        """What a person would type."""
        return [shlex.join(["clipvip", *map(str, words)]) for words in self.verbs.values()]


def steps(settings: Settings) -> list[Step]:
    """All steps, in order."""
    run, recipe, data, work = settings.run, settings.recipe(), settings.data, settings.work
    tokenizer = settings.tokenizer or run.weights.tokenizer
    convert = ["convert", data / run.weights.file, work / "weights", "--processor", tokenizer]
    imports: dict[str, list[object]] = {}
    checks: dict[str, list[object]] = {}
    for name, split in run.data.splits.items():
        ids, drop = ["--ids", data / split.ids] if split.ids else [], ["--drop-missing"] if settings.skip else []
        imports[name] = ["data", "import", split.format, *(data / source for source in split.sources), *ids]
        imports[name] += ["--split", name, "--videos", data / run.data.videos.folder]
        imports[name] += ["--out", settings.manifest(name), *drop]
        checks[name] = ["data", "check", settings.manifest(name), "--quick"]
        checks[name] += ["--num-frames", recipe.model.num_frames, "--workers", max(1, recipe.data.num_workers)]
    train = ["train", run.recipe, *settings.inputs, *settings.overrides, "--workdir", work / "run"]
    join = ["--join-captions"] if recipe.data.join_captions else []
    evaluate = ["evaluate", "--model", work / "run" / "model", "--data", settings.manifest("test"), "--split", "test"]
    evaluate += [*join, *settings.skip, "--rescore", "dsl", "--dtype", "float32", "--output", work / "evaluation.json"]
    hardware = recipe.hardware or "any hardware"
    return [
        *([] if settings.init else [Step("weights", "the checkpoint becomes a model folder", {"": convert})]),
        Step("manifests", "annotation files become manifests", imports),
        Step("check", "can every video be decoded?", checks),
        Step("train", f"fine-tuning ({hardware}; train.micro_batch=N fits less memory)", {"": train}),
        Step("evaluate", "the test set, read once", {"": evaluate}),
    ]


def reproduce(
    settings: Settings,
    run_verb: RunVerb,
    *,
    until: str | None = None,
    on_step: Callable[[Step, bool], None] = lambda step, done: None,
) -> dict[str, Any] | None:
    """Do the steps that are not done, and write `result.json`.

    until: the last step to do now. on_step: called before each step, with whether it was done before.
    Returns: the result, or None if it ended earlier.
    Raises: UsageError if the work folder is of another run, or this is one of several processes; ManifestError for
    files that are not there; errors of the steps.
    """
    from clipvip.reproduce.result import make_result  # loads torch

    to_do = steps(settings)
    names = [step.name for step in to_do]
    if until is not None and until not in names:
        raise UsageError(f"--until {until}: choose {', '.join(names)}")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "reproduce is one process: start its `clipvip train` command alone with torchrun (reproduce --dry-run "
            "prints it), then give the same reproduce command again: it continues from there"
        )
    gone = _missing_files(settings)
    if gone:
        raise ManifestError(
            f"{settings.data}: {', '.join(gone)} {'is' if len(gone) == 1 else 'are'} not there; "
            f"clipvip reproduce {settings.run.name} prints where each is from"
        )
    settings.work.mkdir(parents=True, exist_ok=True)
    try:
        with locked(settings.work):
            notes = _open_notes(settings)
            done: dict[str, dict[str, Any]] = notes["steps"]
            for step in to_do:
                on_step(step, step.name in done)
                if step.name not in done:
                    started = time.perf_counter()
                    findings = _do(step, settings, run_verb, done)
                    done[step.name] = {**findings, "step_seconds": round(time.perf_counter() - started, 1)}
                    replace_text(settings.work / "reproduce.json", json.dumps(notes, indent=2) + "\n")
                if step.name == until:
                    return None
            result = make_result(settings, done)
            replace_text(settings.work / "result.json", json.dumps(result, indent=2) + "\n")
            return result
    except BlockingIOError:
        raise UsageError(f"{settings.work}: another reproduction is at work there; wait for it") from None


def plan(settings: Settings, *, has_data: bool = True, has_work: bool = True) -> dict[str, Any]:
    """Files, counts, steps with their commands, and what counts as reproduced; nothing is done.

    has_data, has_work: whether `settings.data` and `settings.work` are folders to look into, or names to fill in.
    """
    run, data, notes = settings.run, settings.data, read_notes(settings.work) if has_work else None
    parts: Any = {"about": True, "videos": True, "notes": True, "splits": {"__all__": {"clips", "captions"}}}
    known = run.data.model_dump(by_alias=True, include=parts)
    files = [file.model_dump(by_alias=True, exclude={"tokenizer"}) for file in settings.published_files]
    if has_data:
        known["videos"]["found"] = (data / run.data.videos.folder).is_dir()
        for entry, file in zip(files, settings.published_files, strict=True):
            path = data / file.file
            entry |= {"found": path.is_file(), "problem": file_problem(file, path)}
    done = notes["steps"] if notes else {}
    to_do = [
        {"name": step.name, "about": step.about, "commands": step.commands, "done": step.name in done}
        for step in steps(settings)
    ]
    known |= {"run": run.name, "data": str(data), "command": settings.command, "recipe": run.recipe, "steps": to_do}
    known |= {"paper": run.figures.paper, "ours": settings.recipe().ours, "files": files}
    return known | {"band": list(run.band), "why": run.data.band.why}


def read_notes(work: Path) -> dict[str, Any] | None:
    """What `reproduce.json` in a work folder holds, or None."""
    file = work / "reproduce.json"
    if not file.exists():
        return None
    try:
        return dict(parse_json(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{file}: damaged ({error}); choose another folder, or delete this one") from None


def file_problem(published: PublishedFile, path: Path, sha256: str | None = None) -> str | None:
    """How a file differs from the published one, as far as that is known. sha256: its own, if it was computed."""
    if not path.is_file():
        return f"{published.file}: missing"
    size = path.stat().st_size
    if published.bytes not in (None, size):
        return f"{published.file}: {size:,} bytes, published with {published.bytes:,}"
    if None not in (sha256, published.sha256) and sha256 != published.sha256:
        return f"{published.file}: SHA-256 {sha256}, published with {published.sha256}"
    return None


def _missing_files(settings: Settings) -> list[str]:
    files = [file.file for file in settings.published_files if not (settings.data / file.file).is_file()]
    folder = settings.run.data.videos.folder
    return files if (settings.data / folder).is_dir() else [*files, f"{folder}/"]


def _open_notes(settings: Settings) -> dict[str, Any]:
    """The findings of the steps that are done. Raises: UsageError if the folder is for another reproduction."""
    from clipvip.training.state import MAY_CHANGE  # loads torch

    identity = {
        "run": settings.run.recipe,
        "data": os.path.abspath(settings.data),
        "init": settings.init,
        "tokenizer": settings.tokenizer,
        "overrides": [text for text in settings.overrides if text.partition("=")[0] not in MAY_CHANGE],
    }  # on_decode_error may change: the findings of each step list what it left out
    notes = read_notes(settings.work) or {"settings": identity, "steps": {}}
    for key, value in identity.items():
        if notes["settings"].get(key) != value:
            raise UsageError(
                f"{settings.work}: holds another reproduction ({key} was {notes['settings'].get(key)!r}, now "
                f"{value!r}); choose another --workdir, or delete that folder"
            )
    return notes


def _do(step: Step, settings: Settings, run_verb: RunVerb, done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Do a step, or the rest of one that was interrupted. Returns: its findings."""
    if step.name == "evaluate":
        test = done["manifests"]["test"]
        one_text_each = test["clips"] == test["captions"] or "--join-captions" in step.verbs[""]
        run_verb([*map(str, step.verbs[""]), *(["--released-protocol"] if one_text_each else [])])
        return dict(json.loads((settings.work / "evaluation.json").read_text(encoding="utf-8")))
    if step.name == "weights":
        shutil.rmtree(settings.work / "weights", ignore_errors=True)  # an interruption may come before it is noted
    findings = {}
    for split, words in step.verbs.items():
        report = json.loads(run_verb([*map(str, words), "--json"]))
        if not settings.skip:
            _check_usable(step.name, split, report, settings)
        keys = {"weights": ("format", "notes"), "manifests": ("clips", "captions", "missing")}
        found = report["counts"] if step.name == "check" else report
        findings[split] = {key: found[key] for key in keys.get(step.name, found)}
    return findings.get("", findings)


def _check_usable(step: str, split: str, report: dict[str, Any], settings: Settings) -> None:
    """Raises: ManifestError if videos are missing (of an import) or cannot be decoded (of a check)."""
    folder, manifest = settings.data / settings.run.data.videos.folder, settings.manifest(split)
    if step == "manifests" and report["missing"]:
        raise ManifestError(
            f"{folder}: {report['missing']} of {report['clips']} videos of {split} are not there, such as "
            f"{report['missing_examples'][0]}; add them and give the same command again, or go on without them with "
            "--on-decode-error skip"
        )
    if step == "check" and (unusable := [*report["missing"], *report["bad"]]):
        raise ManifestError(
            f"{manifest}: {len(unusable)} of {report['counts']['clips']} videos cannot be used, such as "
            f"{unusable[0]['clip_id']} ({unusable[0]['reason']}); repair them, delete {manifest}.check and give the "
            "same command again; or go on without them with --on-decode-error skip"
        )
