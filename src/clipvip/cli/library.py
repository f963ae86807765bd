"""`clipvip library`: upkeep of an index, one command each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipvip.cli.index import EncodeOptions, Exclude, UpdateOptions, update
from clipvip.cli.options import AsJson, IndexUri, arg, opt, takes
from clipvip.cli.output import echo, echo_json
from clipvip.cli.progress import progress_bar

if TYPE_CHECKING:
    from clipvip.search import IndexSummary

NAME = "library"
app = typer.Typer(
    help="Upkeep of an index: what is in it, checks, removals, encoding again.",
    epilog="Example: clipvip library status --index my-index",
    no_args_is_help=True,
)


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    index: IndexUri
    as_json: AsJson = False


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(StatusOptions):
    content: bool = opt(False, "Also read all video files and compare their content.")


@dataclass(frozen=True, kw_only=True)
class PruneOptions(StatusOptions):
    exclude: Exclude = None
    force: bool = opt(False, "Also where most videos of a folder are missing.")


@dataclass(frozen=True, kw_only=True)
class ForgetOptions(StatusOptions):
    folders: list[Path] = arg(..., "DIR...", "Folders that were indexed.")


@takes(StatusOptions)
def status(options: StatusOptions) -> None:
    """Print what an index holds, of which folders, and which files failed.

    Example: clipvip library status --index my-index
    """
    from dataclasses import asdict

    from clipvip.cli.render.index_report import status_lines
    from clipvip.search import Library

    with progress_bar("reading the index", "videos"):
        found = Library(options.index).status()
    echo_json(asdict(found)) if options.as_json else echo("\n".join(status_lines(found)))


@takes(VerifyOptions)
def verify(options: VerifyOptions) -> None:
    """Check all of an index, and repair what can be repaired.

    The exit code is 1 if videos were taken out, or if something is left to do.

    Example: clipvip library verify --index my-index
    """
    from clipvip.cli.render.index_report import verification_json, verification_lines
    from clipvip.progress import progress_line
    from clipvip.search import Library

    with progress_line("files") as bar:
        task = bar.add_task("checking", total=None)

        def on_progress(what: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=f"checking {what}")

        found = Library(options.index).verify(content=options.content, on_progress=on_progress)
    if options.as_json:
        echo_json(verification_json(found))
    else:
        echo("\n".join(verification_lines(found, options.index)))
    raise typer.Exit(0 if found.sound and not found.removed else 1)


@takes(PruneOptions)
def prune(options: PruneOptions) -> None:
    """Remove videos that are no longer on disk, or are excluded now.

    Nothing is removed of a folder that is itself missing or empty (a drive may not be mounted), nor, without --force,
    of one of whose videos more than half are missing. Such folders are reported.

    Example: clipvip library prune --index my-index
    """
    from clipvip.cli.render.index_report import summary_problems
    from clipvip.search import Library

    with progress_bar("looking for files", "videos"):
        summary = Library(options.index).prune(options.exclude or (), force=options.force)
    for line in summary_problems(summary):
        echo(line, err=True)
    _report_removed(options, summary)


@takes(ForgetOptions)
def forget(options: ForgetOptions) -> None:
    """Remove folders with all their videos, wherever those are now.

    Example: clipvip library forget /mnt/camera --index my-index
    """
    from clipvip.search import IndexSummary, Library

    library = Library(options.index)
    with progress_bar("removing", "videos"):
        removed = sum(library.forget(folder).removed for folder in options.folders)
    _report_removed(options, IndexSummary(removed=removed))


@takes(EncodeOptions)
def rebuild(options: EncodeOptions) -> None:
    """Encode all videos again, with another model or other windows. The folders stay.

    After an interruption, `clipvip index` resumes.

    Example: clipvip library rebuild --model models/vip-b16 --index my-index
    """
    exclude = options.exclude or ()
    update(options, lambda library, **on: library.rebuild(exclude=exclude, **on), options.background)


@takes(UpdateOptions)
def upgrade(options: UpdateOptions) -> None:
    """Encode the videos again that an older clipvip read by other rules (see status), and no others.

    Example: clipvip library upgrade --index my-index
    """
    unchanged = f"{options.index}: every video was read by the current rules; there is nothing to upgrade"
    update(options, lambda library, **on: library.upgrade(**on), unchanged=unchanged)


VERBS = {command.__name__: command for command in (status, verify, prune, forget, rebuild, upgrade)}
for name, command in VERBS.items():
    app.command(name)(command)


def _report_removed(options: StatusOptions, summary: IndexSummary) -> None:
    if options.as_json:
        skipped = [{"video": str(skip.video), "reason": skip.reason} for skip in summary.skipped]
        echo_json({"removed": summary.removed, "skipped": skipped})
    else:
        echo(f"{summary.removed} videos taken out of {options.index}")
