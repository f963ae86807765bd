"""A published run from its files to its result: every step once, whatever interrupts in between."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

from clipvip.errors import ManifestError, UsageError
from clipvip.files import locked, replace_text
from clipvip.reproduce.inventory import missing_files
from clipvip.reproduce.notes import Notes
from clipvip.reproduce.result import make_result
from clipvip.reproduce.steps import Progress, Settings, Step, steps


def reproduce(
    settings: Settings,
    *,
    until: str | None = None,
    told: Callable[[Step, bool], Progress] = lambda step, done: lambda count, total: None,
) -> dict[str, Any] | None:
    """Do the steps that are not done, and write `result.json`.

    until: the last step to do now. told: is called before each step, with whether it was done before; it gives what is
    told the step's progress. Returns: the result, or None if it ended earlier.
    Raises: UsageError if the work folder is of another run, or this is one of several processes; ManifestError for
    files that are not there; errors of the steps.
    """
    to_do = steps(settings)
    names = [step.name for step in to_do]
    if until is not None and until not in names:
        raise UsageError(f"--until {until}: choose {', '.join(names)}")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "reproduce is one process: start its `clipvip train` command alone with torchrun (reproduce --dry-run "
            "prints it), then give the same reproduce command again: it goes on from there"
        )
    gone = missing_files(settings)
    if gone:
        raise ManifestError(
            f"{settings.data}: {', '.join(gone)} {'is' if len(gone) == 1 else 'are'} not there; "
            f"clipvip reproduce {settings.run.name} tells where each is from"
        )
    settings.work.mkdir(parents=True, exist_ok=True)
    try:
        with locked(settings.work):
            notes = Notes(settings)
            for step in to_do:
                progress = told(step, step.name in notes.steps)
                if step.name not in notes.steps:
                    started = time.perf_counter()
                    findings = step.run(progress)
                    notes.finish(step.name, {**findings, "step_seconds": round(time.perf_counter() - started, 1)})
                if step.name == until:
                    return None
            result = make_result(settings, notes.steps)
            replace_text(settings.work / "result.json", json.dumps(result, indent=2) + "\n")
            return result
    except BlockingIOError:
        raise UsageError(f"{settings.work}: another reproduction is at work there; wait for it") from None
