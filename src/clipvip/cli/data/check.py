"""`clipvip data check`: which clips of a manifest can be used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from clipvip.cli.output import echo, echo_json
from clipvip.cli.progress import progress_bar
from clipvip.terminal import one_line

NAME = "check"
_SHOWN = 3


def command(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST")],
    videos: Annotated[
        Path | None, typer.Option(help="Folder the media paths are relative to (default: the manifest's).")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Check this split only.")] = None,
    workers: Annotated[int, typer.Option(help="Decoding processes.")] = 2,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read only --num-frames uniform frames of a clip, not every one.")
    ] = False,
    num_frames: Annotated[int, typer.Option(help="A video of fewer frames is short.")] = 12,
    min_seconds: Annotated[float | None, typer.Option(help="A video that lasts less is short, too.")] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds of silence (more for large files) after which a clip hangs the decoder.")
    ] = 300.0,
    work: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where finished parts are kept (default: MANIFEST.check).")
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            metavar="CLEAN", help="Write a manifest without the bad, missing, duplicated (captions and all) and short."
        ),
    ] = None,
    keep_short: Annotated[bool, typer.Option("--keep-short", help="Let --fix keep the short ones.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if not every clip is fine.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
) -> None:
    """Decode every clip of a manifest and tell which are bad, short, duplicated or missing.

    Bad: cannot be decoded to its end, or crashes or hangs the decoder. Short: fewer than --num-frames frames, or less
    than --min-seconds. Duplicated: the same file content and time range as a clip before it, under another clip_id.

    An interrupted check goes on where it stopped when the same command is given again; other limits for short clips
    need no second decode. Clips once checked are not looked at again until the work folder is deleted. The clean
    manifest keeps all else as it is, clips of other splits included.

    Example: clipvip data check msrvtt.jsonl --workers 8 --fix msrvtt-clean.jsonl
    """

    from clipvip.data.tools import check_manifest, default_work

    with progress_bar("checking") as progress:
        report = check_manifest(
            manifest,
            videos=videos,
            split=split,
            quick=quick,
            num_frames=num_frames,
            min_seconds=min_seconds,
            timeout_s=timeout,
            work=work,
            workers=workers,
            fix=fix,
            keep_short=keep_short,
            progress=progress,
        )
    if as_json:
        echo_json(report)
    else:
        echo("\n".join(_lines(report, work or default_work(manifest))))
    if strict and report["counts"]["ok"] < report["counts"]["clips"]:
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
