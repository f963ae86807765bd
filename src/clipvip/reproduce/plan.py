"""What a reproduction takes and how far it has come, without doing anything."""

from __future__ import annotations

from typing import Any

from clipvip.reproduce.inventory import files_of
from clipvip.reproduce.notes import read_notes
from clipvip.reproduce.steps import Settings, steps


def plan(settings: Settings, *, has_data: bool = True, has_work: bool = True) -> dict[str, Any]:
    """Files, counts, steps with their commands, and what counts as reproduced.

    has_data, has_work: whether `settings.data` and `settings.work` are folders to look into, and not names to fill in.
    """
    run = settings.run
    held = read_notes(settings.work) if has_work else None
    done = held["steps"] if held else {}
    files = []
    for found in files_of(run, settings.data, with_weights=settings.init is None):
        published = found.published
        entry = published.model_dump(by_alias=True, include={"file", "about", "origin", "bytes", "sha256"})
        files.append(entry | ({"found": found.bytes is not None, "problem": found.problem()} if has_data else {}))
    videos = run.data.videos.model_dump(by_alias=True)
    if has_data:
        videos["found"] = (settings.data / run.data.videos.folder).is_dir()
    low, high = run.band
    return {
        "run": run.name,
        "data": str(settings.data),
        "command": settings.command,
        "about": run.data.about,
        "recipe": run.recipe,
        "paper": run.figures.paper,
        "ours": settings.recipe().ours,
        "band": [low, high],
        "why": run.data.band.why,
        "files": files,
        "videos": videos,
        "splits": {name: {"clips": split.clips, "captions": split.captions} for name, split in run.data.splits.items()},
        "notes": run.data.notes,
        "steps": [
            {"name": step.name, "about": step.about, "commands": step.commands, "done": step.name in done}
            for step in steps(settings)
        ],
    }
