"""`clipvip data import`: the annotation files of a data set to a manifest."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipvip.cli.options import arg, crew, opt, takes
from clipvip.cli.output import echo, echo_json
from clipvip.cli.progress import counting, progress_bar
from clipvip.errors import UsageError

if TYPE_CHECKING:
    from clipvip.data.importers import Report
    from clipvip.records import Clip

NAME = "import"


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    format_: str | None = arg(None, "FORMAT", "One of those that --list shows.")
    sources: list[Path] | None = arg(None, "SOURCE...", "The data set's own annotation files.")
    out: Path | None = opt(None, "The manifest to write.", metavar="MANIFEST")
    videos: Path | None = opt(None, "Folder of the media files (images too); each is looked for there.")
    relative_to: str = opt("manifest", "What paths in the manifest are relative to: manifest (its folder) or videos.")
    drop_missing: bool = opt(False, "Leave out clips without a file (default: keep, and count).")
    split: str | None = opt(None, "Split of all clips (default: what the annotations say).")
    ids: Path | None = opt(None, "Take only the clips that this file lists (lines, a csv with ids, or JSON).")
    field: list[str] | None = opt(
        None, "csv, tsv, json, ...: where a key of the manifest comes from.", metavar="KEY=COLUMN"
    )
    columns: str | None = opt(None, "csv, tsv: the columns' names if there is no header.", metavar="A,B,...")
    delimiter: str | None = opt(None, "csv: what separates columns (default: recognised).")
    merge: bool = opt(False, "csv, tsv, json: lines of one clip_id are one clip, several captions.")
    transcripts: Path | None = opt(None, "hdvila: folder of <video_id>.vtt, .srt or .json; becomes subtitle.")
    whole_videos: bool = opt(False, "hdvila: the videos are not cut; use start_s and end_s.")
    captions: Path | None = opt(None, "clipvip-pretrain: LMDB folder or json of auxiliary captions.")
    extract: Path | None = opt(None, "shards: folder to unpack the media of tars to.")
    engine: str = opt("local", "Processes of this machine, or actors of a Ray cluster.", metavar="local|ray")
    address: str | None = opt(None, "The Ray cluster (default: one started on this machine).", metavar="auto|HOST:PORT")
    workers: int | None = opt(
        None, "Processes that read transcripts (default: 1; with --engine ray: one a CPU).", min=1
    )
    list_: bool = opt(False, "Show the formats.")
    as_json: bool = opt(False, "Print the counts as JSON.")
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.list_:
            return
        if self.format_ is None or not self.sources or self.out is None:
            raise UsageError(
                "data import needs FORMAT SOURCE... --out MANIFEST (clipvip data import --list: the formats)"
            )
        if self.relative_to not in ("manifest", "videos") or (self.relative_to == "videos" and self.videos is None):
            raise UsageError(f"--relative-to {self.relative_to}: choose manifest, or videos (together with --videos)")
        if self.drop_missing and self.videos is None:
            raise UsageError("--drop-missing needs --videos: without it no file is looked for")
        if not self.out.parent.is_dir():
            raise UsageError(f"--out {self.out}: there is no folder {self.out.parent}")
        if self.out.is_dir():
            raise UsageError(f"--out {self.out}: is a folder; name a file")
        for name in ("engine", "address", "workers"):
            if name in self.given and self.transcripts is None:
                raise UsageError(f"--{name} has no use without --transcripts (hdvila), the one thing it is for")


@takes(ImportOptions)
def command(options: ImportOptions) -> None:
    """Make a manifest from a data set's own files, and count what is in it, missing, repeated or empty.

    A malformed entry is an error that names file, line and field; no manifest is written then.

    Transcripts are aligned to the clips first, by --workers processes. Finished parts are kept (MANIFEST.parts): the
    same command resumes after an interruption, and transcripts once aligned are not read again until that is deleted.

    Example: clipvip data import didemo test_data.json --videos didemo/videos --split test --out didemo-test.jsonl

    Example: clipvip data import csv clips.csv --field video=path --field captions=text --out clips.jsonl
    """

    from clipvip.data.importers import FORMATS, Options, run_import

    if options.list_:
        for importer in FORMATS.values():
            echo(f"{importer.name:17} {importer.about}")
        return
    if options.format_ not in FORMATS:
        raise UsageError(f"{options.format_}: no such format; there are {', '.join(FORMATS)}")
    assert options.sources is not None
    assert options.out is not None
    importer = FORMATS[options.format_]
    columns = tuple(name.strip() for name in options.columns.split(",")) if options.columns else ()
    of_format = Options(
        fields=_fields(options.field or []), columns=columns, delimiter=options.delimiter, merge=options.merge,
        transcripts=options.transcripts, whole_videos=options.whole_videos, captions=options.captions,
        extract=options.extract,
    )  # fmt: skip
    importer.check(of_format)
    with ExitStack() as bar:
        job: dict[str, Any] = {}
        if options.transcripts is not None:
            engine, workers = crew(options.engine, options.address, options.workers, wants_gpu=False)
            progress = bar.enter_context(progress_bar("aligning transcripts", "videos"))
            job = {"engine": engine, "workers": workers, "progress": progress}

        def watch(clips: Iterable[Clip]) -> Iterable[Clip]:
            bar.close()  # two at once would write over each other
            return bar.enter_context(counting(f"importing {importer.name}"))(clips)

        report = run_import(
            importer, options.sources, options.out, videos=options.videos,
            relative_to_videos=options.relative_to == "videos", split=options.split, ids=options.ids,
            drop_missing=options.drop_missing, options=of_format, watch=watch, **job,
        )  # fmt: skip
    if options.as_json:
        echo_json(report.to_dict())
        return
    echo("\n".join(_lines(report)))
    if options.transcripts is not None:
        from clipvip.data.importers import work_folder

        echo(f"  transcripts: aligned in {work_folder(options.out)} (delete it to read changed files again)")


def _fields(declared: list[str]) -> dict[str, list[str]]:

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
