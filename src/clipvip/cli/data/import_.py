"""`clipvip data import`: the annotation files of a data set to a manifest."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipvip.cli.options import Address, EngineName, crew
from clipvip.cli.output import echo, echo_json
from clipvip.cli.progress import counting, progress_bar

if TYPE_CHECKING:
    from clipvip.data.importers import Report
    from clipvip.records import Clip

NAME = "import"


def command(
    context: typer.Context,
    format_: Annotated[str | None, typer.Argument(metavar="FORMAT", help="One of those that --list shows.")] = None,
    sources: Annotated[
        list[Path] | None, typer.Argument(metavar="SOURCE...", help="The data set's own annotation files.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="MANIFEST", help="The manifest to write.")] = None,
    videos: Annotated[
        Path | None, typer.Option(help="Folder of the media files (images too); each is looked for there.")
    ] = None,
    relative_to: Annotated[
        str, typer.Option(help="What paths in the manifest are relative to: manifest (its folder) or videos.")
    ] = "manifest",
    drop_missing: Annotated[
        bool, typer.Option("--drop-missing", help="Leave out clips without a file (default: keep, and count).")
    ] = False,
    split: Annotated[str | None, typer.Option(help="Split of all clips (default: what the annotations say).")] = None,
    ids: Annotated[
        Path | None, typer.Option(help="Take only the clips that this file lists (lines, a csv with ids, or JSON).")
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=COLUMN", help="csv, tsv, json, ...: where a key of the manifest comes from."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="csv, tsv: the columns' names if there is no header.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="csv: what separates columns (default: recognised).")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="csv, tsv, json: lines of one clip_id are one clip, several captions.")
    ] = False,
    transcripts: Annotated[
        Path | None, typer.Option(help="hdvila: folder of <video_id>.vtt, .srt or .json; becomes subtitle.")
    ] = None,
    whole_videos: Annotated[
        bool, typer.Option("--whole-videos", help="hdvila: the videos are not cut; use start_s and end_s.")
    ] = False,
    captions: Annotated[
        Path | None, typer.Option(help="clipvip-pretrain: LMDB folder or json of auxiliary captions.")
    ] = None,
    extract: Annotated[Path | None, typer.Option(help="shards: folder to unpack the media of tars to.")] = None,
    engine: EngineName = "local",
    address: Address = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that read transcripts (default: 1; with --engine ray: one a CPU)."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the formats.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Make a manifest from a data set's own files, and count what is in it, missing, repeated or empty.

    A malformed entry is an error that names file, line and field; no manifest is written then.

    Transcripts are aligned to the clips first, by --workers processes. Finished parts are kept (MANIFEST.parts): the
    same command goes on after an interruption, and transcripts once aligned are not read again until that is deleted.

    Example: clipvip data import didemo test_data.json --videos didemo/videos --split test --out didemo-test.jsonl

    Example: clipvip data import csv clips.csv --field video=path --field captions=text --out clips.jsonl
    """

    from clipvip.data.importers import FORMATS, Options, run_import
    from clipvip.errors import UsageError

    if list_:
        for importer in FORMATS.values():
            echo(f"{importer.name:17} {importer.about}")
        return
    if format_ is None or not sources or out is None:
        raise UsageError("data import needs FORMAT SOURCE... --out MANIFEST (clipvip data import --list: the formats)")
    if format_ not in FORMATS:
        raise UsageError(f"{format_}: no such format; there are {', '.join(FORMATS)}")
    if relative_to not in ("manifest", "videos") or (relative_to == "videos" and videos is None):
        raise UsageError(f"--relative-to {relative_to}: choose manifest, or videos (together with --videos)")
    if drop_missing and videos is None:
        raise UsageError("--drop-missing needs --videos: without it no file is looked for")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file")
    options = Options(
        fields=_fields(field or []),
        columns=tuple(name.strip() for name in columns.split(",")) if columns else (),
        delimiter=delimiter,
        merge=merge,
        transcripts=transcripts,
        whole_videos=whole_videos,
        captions=captions,
        extract=extract,
    )
    FORMATS[format_].check(options)
    with ExitStack() as bar:
        job: dict[str, Any] = {}
        if transcripts is not None:
            job_engine, num_workers = crew(engine, address, workers, wants_gpu=False)
            progress = bar.enter_context(progress_bar("aligning transcripts", "videos"))
            job = {"engine": job_engine, "workers": num_workers, "progress": progress}
        else:
            for name in ("engine", "address", "workers"):
                if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE":
                    raise UsageError(f"--{name} has no use without --transcripts (hdvila), the one thing it is for")

        def watch(clips: Iterable[Clip]) -> Iterable[Clip]:
            bar.close()  # two at once would write over each other
            return bar.enter_context(counting(f"importing {format_}"))(clips)

        report = run_import(
            FORMATS[format_],
            sources,
            out,
            videos=videos,
            relative_to_videos=relative_to == "videos",
            split=split,
            ids=ids,
            drop_missing=drop_missing,
            options=options,
            watch=watch,
            **job,
        )
    if as_json:
        echo_json(report.to_dict())
        return
    echo("\n".join(_lines(report)))
    if transcripts is not None:
        from clipvip.data.importers import work_folder

        echo(f"  transcripts: aligned in {work_folder(out)} (delete it to read changed files again)")


def _fields(declared: list[str]) -> dict[str, list[str]]:
    from clipvip.errors import UsageError

    fields: dict[str, list[str]] = {}
    for text in declared:
        key, mark, column = text.partition("=")
        if not (key and mark and column):
            raise UsageError(f"--field {text}: write KEY=COLUMN, such as captions=text")
        fields.setdefault(key, []).append(column)
    return fields


def _lines(report: Report) -> list[str]:
    """The report as people read it: what there is first, then what they should know."""
    count = f"{report.captions:,} captions"
    for number, name in ((report.subtitles, "subtitles"), (report.aux_captions, "auxiliary captions")):
        count += f", {number:,} {name}" if number else ""
    lines = [f"{report.format}: {report.clips:,} clips, {count} -> {report.out}"]
    if report.media_checked:
        text = f"  media: {report.found:,} found"
        text += f" ({report.found_otherwise:,} under another name)" if report.found_otherwise else ""
        text += f", {report.missing:,} missing"
        if report.missing:
            text += " (left out)" if report.missing_dropped else " (kept; --drop-missing leaves them out)"
            text += _such_as(report.missing_examples, report.missing)
        lines.append(text)
    else:
        lines.append("  media: not looked for (--videos FOLDER does that)")
    if report.duplicates:
        names = _such_as(report.duplicate_examples, report.duplicates)
        lines.append(f"  duplicates: {report.duplicates:,} entries left out, their clip_id was there before{names}")
    else:
        lines.append("  duplicates: none")
    if report.empty_texts:
        lines.append(f"  empty texts dropped: {report.empty_texts:,}")
    if report.without_text:
        lines.append(f"  clips without any text: {report.without_text:,}")
    if report.repeated_captions["texts"]:
        repeated = report.repeated_captions
        lines.append(f"  repeated captions: {repeated['texts']:,} sentences stand {repeated['captions']:,} times")
    if report.not_listed:
        lines.append(f"  not on the list of --ids: {report.not_listed:,} entries left out")
    if report.listed_not_found:
        names = _such_as(report.listed_not_found_examples, report.listed_not_found)
        lines.append(f"  on the list of --ids but not in the sources: {report.listed_not_found:,}{names}")
    lines += [f"  {number:,} {remark}" if number else f"  {remark}" for remark, number in report.notes.items()]
    if report.public_sizes:
        sizes = ", ".join(
            f"{name} {size:,}{' (this many)' if size == report.clips else ''}"
            for name, size in report.public_sizes.items()
        )
        lines.append(f"  public sizes: {sizes}")
    return lines


def _such_as(examples: list[str], number: int) -> str:
    return f": {', '.join(examples)}{', ...' if number > len(examples) else ''}" if examples else ""
