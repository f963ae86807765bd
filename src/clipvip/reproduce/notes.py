"""Which reproduction a work folder is for, and how far it has come: `reproduce.json`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from clipvip.errors import UsageError
from clipvip.files import parse_json, replace_text
from clipvip.reproduce.steps import Settings


class Notes:
    """The findings of the steps that are done, by their names, in a folder that is for one reproduction only."""

    def __init__(self, settings: Settings):
        """Raises: UsageError if the folder is for another one."""
        self._file = settings.work / "reproduce.json"
        wanted = _identity(settings)
        held = read_notes(settings.work)
        if held is None:
            held = {"settings": wanted, "steps": {}}
        for key, value in wanted.items():
            if held["settings"].get(key) != value:
                raise UsageError(
                    f"{settings.work}: holds another reproduction ({key} was {held['settings'].get(key)!r}, now "
                    f"{value!r}); choose another --workdir, or delete that folder"
                )
        self._held = held
        self.steps: dict[str, dict[str, Any]] = held["steps"]

    def finish(self, name: str, findings: dict[str, Any]) -> None:
        """Note that a step is done."""
        self.steps[name] = findings
        replace_text(self._file, json.dumps(self._held, indent=2) + "\n")


def read_notes(work: Path) -> dict[str, Any] | None:
    """What `reproduce.json` in a work folder holds, or None."""
    file = work / "reproduce.json"
    if not file.exists():
        return None
    try:
        return dict(parse_json(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{file}: damaged ({error}); choose another folder, or delete this one") from None


def _identity(settings: Settings) -> dict[str, Any]:
    """What must not change between two calls. `on_decode_error` may: each step tells what it went on without."""
    from clipvip.training.state import MAY_CHANGE  # loads torch, and a plan is read without

    return {
        "run": settings.run.recipe,
        "data": os.path.abspath(settings.data),
        "init": settings.init,
        "tokenizer": settings.tokenizer,
        "overrides": [text for text in settings.overrides if text.partition("=")[0] not in MAY_CHANGE],
    }
