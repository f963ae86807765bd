"""`clipvip data stats`: what is in a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipvip.cli.options import AsJson, Manifest, opt, takes
from clipvip.cli.output import echo_json, make_console

if TYPE_CHECKING:
    from rich.table import Table

NAME = "stats"


@dataclass(frozen=True, kw_only=True)
class StatsOptions:
    manifest: Manifest
    videos: Path | None = opt(None, "Folder the media paths are relative to; the files are then looked for.")
    as_json: AsJson = False


@takes(StatsOptions)
def command(options: StatsOptions) -> None:
    """Check every line of a manifest and report what is in it: sizes, lengths, repeats, leaks between splits.

    A leak is a clip outside train that shares a moment of its file with a clip of train, or a caption that train has
    too (case and spacing aside). A malformed line is an error that names it.

    Example: clipvip data stats runs/demo/world/retrieval.jsonl
    """

    from clipvip.cli.progress import counting
    from clipvip.data.tools import manifest_stats

    with counting("reading") as watch:
        stats = manifest_stats(options.manifest, videos=options.videos, watch=watch)
    if options.as_json:
        echo_json(stats)
    else:
        make_console().print(_table(stats), soft_wrap=False)


def _table(stats: dict[str, Any]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{escape(stats['manifest'])}: {stats['clips']:,} clips", show_header=False)

    def row(name: str, text: str, examples: list[dict[str, str]] | None = None) -> None:
        shown = [example.get("caption") or example["clip_id"] for example in examples or ()]
        table.add_row(name, escape(text + (f" (such as {'; '.join(shown)})" if shown else "")))

    row("splits", _pairs(stats["by_split"]))
    row("clips with", _pairs({key: number for key, number in stats["with"].items() if number}))
    row("captions a clip", _spread(stats["captions_per_clip"]))
    for kind, spread in stats["words"].items():
        if spread:
            row(f"words, {kind}", f"{_spread(spread)} ({spread['num']:,} texts)")
    if spread := stats["durations_s"]:
        row("seconds", f"{_spread(spread)} ({spread['num']:,} clips, {spread['total_hours']:,.1f} hours)")
    for kind, found in stats["duplicates"].items():
        name = kind.replace("_", " ")
        text = f"{found['different']:,}, used {found['together']:,} times" if found["different"] else "none"
        row(f"repeated {name}", text, found["examples"])
    for kind, unit in (("media", "clips"), ("captions", "captions")):
        for split, leak in stats["leaks"][kind].items():
            row(f"{kind} leaks", f"{leak[unit]:,} {unit} of {split} are in train", leak["examples"])
    if stats["media"]["checked"]:
        row("missing files", f"{stats['media']['missing']:,} {' '.join(stats['media']['examples'])}")
    return table


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())


def _spread(spread: dict[str, float]) -> str:
    """min .. max and what lies between."""
    middle = f"mean {spread['mean']:g}, median {spread['median']:g}"
    p95 = f", 95 % up to {spread['p95']:g}" if "p95" in spread else ""
    return f"{spread['min']:g} to {spread['max']:g}, {middle}{p95}"
