"""`clipvip data check`: which clips of a manifest can be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from clipvip.cli.options import ClipOptions, Manifest, opt, takes
from clipvip.cli.output import echo, echo_json
from clipvip.cli.progress import progress_bar
from clipvip.terminal import one_line

NAME = "check"
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class CheckOptions(ClipOptions):
    manifest: Manifest
    workers: int = opt(2, "Decoding processes.")
    quick: bool = opt(False, "Read only --num-frames uniform frames of a clip, not every one.")
    num_frames: int = opt(12, "A video of fewer frames is short.")
    min_seconds: float | None = opt(None, "A video that lasts less is short, too.")
    timeout: float = opt(300.0, "Seconds of silence (more for large files) after which a clip hangs the decoder.")
    work: Path | None = opt(None, "Where finished parts are kept (default: MANIFEST.check).", metavar="DIR")
    fix: Path | None = opt(
        None, "Write a manifest without the bad, missing, duplicated (captions and all) and short.", metavar="CLEAN"
    )
    keep_short: bool = opt(False, "Let --fix keep the short ones.")
    strict: bool = opt(False, "Exit with 1 if not every clip is fine.")
    as_json: bool = opt(False, "Print the whole report as JSON.")


@takes(CheckOptions)
def command(options: CheckOptions) -> None:
    """Decode every clip of a manifest and report which are bad, short, duplicated or missing.

    Bad: cannot be decoded to its end, or crashes or hangs the decoder. Short: fewer than --num-frames frames, or less
    than --min-seconds. Duplicated: the same file content and time range as a clip before it, under another clip_id.

    The same command resumes an interrupted check; other limits for short clips need no second decode. Clips once
    checked are not looked at again until the work folder is deleted. The clean
    manifest keeps all else as it is, clips of other splits included.

    Example: clipvip data check msrvtt.jsonl --workers 8 --fix msrvtt-clean.jsonl
    """

    from clipvip.data.tools import check_manifest, default_work

    with progress_bar("checking") as progress:
        report = check_manifest(
            options.manifest, videos=options.videos, split=options.split, quick=options.quick,
            num_frames=options.num_frames, min_seconds=options.min_seconds, timeout_s=options.timeout,
            work=options.work, workers=options.workers, fix=options.fix, keep_short=options.keep_short,
            progress=progress,
        )  # fmt: skip
    if options.as_json:
        echo_json(report)
    else:
        echo("\n".join(_lines(report, options.work or default_work(options.manifest))))
    if options.strict and report["counts"]["ok"] < report["counts"]["clips"]:
        raise typer.Exit(1)


def _lines(report: dict[str, Any], work: Path) -> Iterator[str]:
    """The report as people read it: the counts, a few of each kind, and where the rest is."""
    from clipvip.data.tools import KINDS

    counts = report["counts"]
    how = f"{report['num_frames']} frames of each were read" if report["quick"] else "every frame was decoded"
    of = f" of split {report['split']}" if report["split"] is not None else ""
    yield f"{report['manifest']}: {counts['clips']:,} clips{of}, {counts['ok']:,} of them fine ({how})"
    for kind in KINDS:
        yield f"  {kind}: {counts[kind]:,}"
        for entry in report[kind][:_SHOWN]:
            yield one_line(f"    {entry['clip_id']} ({entry['media']}): {entry['reason']}")
        if counts[kind] > _SHOWN:
            yield f"    and {counts[kind] - _SHOWN:,} more"
    yield f"all of them: {work / 'report.json'} (delete {work} to check changed files again)"
    if "clean" in report:
        yield f"clean manifest: {report['clean']['manifest']}, {report['clean']['clips']:,} clips"
