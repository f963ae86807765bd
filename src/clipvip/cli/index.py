"""`clipvip index`: make the videos in some folders searchable, and look after the index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipvip.cli.options import Device, Dtype
from clipvip.cli.output import echo, echo_json
from clipvip.terminal import one_line

if TYPE_CHECKING:
    from clipvip.search import IndexSummary, Status, Verification

NAME = "index"


def command(
    index: Annotated[str, typer.Option(metavar="URI", help="The index: a folder, or s3://BUCKET/FOLDER; made if new.")],
    dirs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIR...", help="Folders of videos, or single files; none: all that were ever added."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model folder or hub id (clipvip, or plain CLIP); needed for a new index.")
    ] = None,
    embeddings: Annotated[
        list[Path] | None,
        typer.Option(metavar="SET", help="Instead of folders and a model: what clipvip encode made; repeatable."),
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECONDS",
            help="Length of a segment; several (repeated, or 12,6) find events of different lengths. "
            "Default: that of the clips which the model was trained on, or 12.",
        ),
    ] = None,
    stride: Annotated[
        list[str] | None,
        typer.Option(metavar="SECONDS", help="From segment to segment, one for each window (default: half of it)."),
    ] = None,
    segment: Annotated[
        str | None, typer.Option(metavar="windows|shots", help="Windows (default), or cut where the pictures do.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave out what is called so below the folders, as in a .gitignore (or a .clipvipignore); repeatable.",
        ),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Tell what the index holds, and what failed.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check all of the index, and repair what can be repaired.")
    ] = False,
    content: Annotated[
        bool, typer.Option("--content", help="With --verify: also read all video files and compare their content.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Take out videos that are no longer on disk, or are excluded.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --prune: also where most videos of a folder are missing.")
    ] = False,
    forget: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Take out a folder with all its videos; repeatable.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Another --model, --window or --segment: encode everything again.")
    ] = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Encode again what an older clipvip read by other rules (see --status).")
    ] = False,
    background: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Texts for `search --false-alarm` and `--rescore qbnorm`, one a line, or a manifest with captions.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a file was skipped or is damaged.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Make the videos in folders searchable; unreadable files are named and skipped.

    The same command again indexes only new and changed files, and continues after an interruption. Moved files keep
    their vectors. Hidden files and system folders of NAS and operating systems (@eaDir, #recycle, lost+found, ...) are
    left out, and so is what .clipvipignore files name, in the syntax of .gitignore.

    Examples:

    clipvip index ~/Videos --model runs/demo/model --index my-index

    clipvip index --index my-index --prune      (all folders again, and what is gone goes)

    clipvip index --index my-index --status

    clipvip index --index my-index --verify     (exit code 1 if videos were taken out, or something is left to do)

    clipvip index --index my-index --upgrade    (after a new clipvip that reads videos better)
    """
    import time

    from clipvip.errors import UsageError
    from clipvip.search import IndexSummary, Library
    from clipvip.search.query.background import read_texts

    started = time.perf_counter()
    if embeddings and (dirs or model or exclude):
        raise UsageError("--embeddings goes without folders, without --model and without --exclude")
    alone = status + verify + bool(forget)
    set_ = (device, dtype) != ("auto", "auto")
    others = (dirs, embeddings, prune, rebuild, model, window, stride, segment, exclude, background, strict, set_)
    if alone > 1 or (alone and any(others)):
        raise UsageError("--status, --verify and --forget go alone: each is a command of its own")
    if rebuild and (dirs or embeddings):
        raise UsageError("--rebuild takes the folders that were added before; add others afterwards")
    if upgrade and (alone or any((dirs, embeddings, prune, rebuild, window, stride, segment, exclude, background))):
        raise UsageError("--upgrade takes what is in the index; index, rebuild or prune before or afterwards")
    if (content and not verify) or (force and not prune):
        raise UsageError("--content goes with --verify, and --force with --prune")
    if segment not in (None, "windows", "shots"):
        raise UsageError(f"--segment {segment}: choose windows or shots")
    library = Library(
        index, model, windows_s=_numbers("--window", window), strides_s=_numbers("--stride", stride),
        shots=None if segment is None else segment == "shots", device=device, dtype=dtype,
    )  # fmt: skip
    if status:
        return _tell_status(library.status(), as_json)
    if verify:
        with _verification_bar() as on_progress:
            found = library.verify(content=content, on_progress=on_progress)
        _tell_verification(found, index, as_json)
        raise typer.Exit(0 if found.sound and not found.removed else 1)
    if forget:
        removed = sum(library.forget(folder).removed for folder in forget)
        return echo_json({"removed": removed}) if as_json else echo(f"{removed} videos taken out of {index}")
    texts = None if background is None else read_texts(background)  # a mistake shall not wait for the videos
    if not library.exists and dirs and model is None:
        raise UsageError(f"{index}: no search index there; a new one needs --model M")
    summary = IndexSummary()
    with _bar() as (on_progress, on_hours):
        if embeddings:
            from clipvip.embedding_sets import open_embeddings

            summary = library.add_embeddings(open_embeddings(*embeddings), on_progress=on_progress)
        elif upgrade:
            summary = library.upgrade(on_progress=on_progress, on_hours=on_hours)
        elif rebuild:
            summary = library.rebuild(exclude=exclude or (), on_progress=on_progress, on_hours=on_hours)
        else:
            summary = library.add(dirs or None, exclude=exclude or (), on_progress=on_progress, on_hours=on_hours)
    if texts is not None:
        library.set_background(texts)
    if prune:
        pruned = library.prune(exclude or (), force=force)
        summary.removed += pruned.removed
        summary.missing = max(0, summary.missing - pruned.removed) if pruned.skipped else 0
        summary.skipped += [skip for skip in pruned.skipped if skip.video not in {s.video for s in summary.skipped}]
    if upgrade and summary == IndexSummary() and not as_json:
        return echo(f"{index}: every video was read by the current rules; there is nothing to upgrade")
    _tell_summary(summary, index, time.perf_counter() - started, as_json)
    if strict and (summary.skipped or summary.damaged):
        raise typer.Exit(1)


@contextmanager
def _bar() -> Iterator[tuple[Callable[[int, int], None], Callable[[float], None]]]:
    """Two functions, to be called with the files done and all files, and with hours of video that were encoded."""
    import time

    from clipvip.progress import progress_line

    details = "{task.fields[hours]:.2f} h of video, {task.fields[speed]:.0f} h an hour"
    with progress_line("files", details=details) as bar:
        task = bar.add_task("indexing", total=None, hours=0.0, speed=0.0)
        hours, started = 0.0, time.perf_counter()

        def on_progress(done: int, total: int) -> None:
            description = "indexing" if done < total else "finishing"
            bar.update(task, completed=done, total=total, description=description)

        def on_hours(more: float) -> None:
            nonlocal hours
            hours += more
            bar.update(task, hours=hours, speed=3600 * hours / max(time.perf_counter() - started, 1e-9))

        yield on_progress, on_hours


@contextmanager
def _verification_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A function to be called with what is checked, how much of it is done, and of how much."""
    from clipvip.progress import progress_line

    with progress_line("files") as bar:
        task = bar.add_task("checking", total=None)

        def on_progress(what: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=f"checking {what}")

        yield on_progress


def _tell_summary(summary: IndexSummary, index: str, seconds: float, as_json: bool) -> None:
    for skipped in summary.skipped:
        echo(one_line(f"skipped {skipped.video}: {skipped.reason}"), err=True)
    for damaged in summary.damaged:
        echo(one_line(f"damaged {damaged.video}: {damaged.reason} (indexed as far as it can be read)"), err=True)
    speed = 3600 * summary.hours / seconds
    if as_json:
        names = ("videos", "segments", "hours", "unchanged", "moved", "copied", "removed", "missing", "excluded")
        report = {name: getattr(summary, name) for name in names}
        report |= {"seconds": round(seconds, 2), "hours_an_hour": round(speed, 1)}
        for name, files in (("skipped", summary.skipped), ("damaged", summary.damaged)):
            report[name] = [{"video": str(file.video), "reason": file.reason} for file in files]
        echo_json(report)
        return
    others = {
        "unchanged": summary.unchanged,
        "moved": summary.moved,
        "copied": summary.copied,
        "removed": summary.removed,
        "damaged": len(summary.damaged),
    }
    more = "".join(f", {count} {name}" for name, count in others.items() if count)
    missing = f", {summary.missing} missing (--prune takes them out)" if summary.missing else ""
    excluded = f", {summary.excluded} excluded" if summary.excluded else ""
    pace = f" ({speed:.0f} hours of video an hour)" if summary.videos else ""
    echo(
        f"{summary.videos} videos, {summary.segments} segments, {summary.hours:.2f} hours{pace}, "
        f"{len(summary.skipped)} skipped{more}{missing}{excluded}; index: {index}"
    )


def _tell_status(status: Status, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        echo_json(asdict(status))
        return
    settings = status.settings
    cut = f"shots, and {settings.scales}" if settings.shots else str(settings.scales)
    echo(f"{status.uri}: {status.videos} videos, {status.segments} segments, {status.hours:.2f} hours")
    echo(f"on disk: {status.num_bytes / 2**20:.1f} MiB")
    echo(f"model: {settings.model} (fingerprint {settings.fingerprint}), {settings.embedding_size} numbers a vector")
    echo(f"cut into: {cut}")
    if status.num_older_videos:
        echo(
            f"read by older rules: {status.num_older_videos} videos, {status.num_older_segments} segments "
            "(--upgrade encodes them again)"
        )
    for root in status.roots:
        missing = "" if root.there else "  MISSING OR EMPTY (not mounted?)"
        echo(f"folder {root.root}: {root.videos} videos, {root.segments} segments, {root.hours:.2f} hours{missing}")
    for failure in status.failures:
        what = "damaged" if failure.indexed else "failed"
        echo(one_line(f"{what} {Path(failure.root, failure.path)}: {failure.reason}"))


def _tell_verification(found: Verification, index: str, as_json: bool) -> None:
    if as_json:
        problems = [{"problem": problem.what, "repaired": problem.repaired or None} for problem in found.problems]
        report = {"videos": found.videos, "segments": found.segments, "sound": found.sound, "removed": found.removed}
        echo_json(report | {"problems": problems})
        return
    for problem in found.problems:
        echo(one_line(f"{problem.what}{f': {problem.repaired}' if problem.repaired else ''}"))
    num_repaired = sum(bool(problem.repaired) for problem in found.problems)
    removed = f", {found.removed} videos taken out (index again)" if found.removed else ""
    verdict = f"{len(found.problems)} problems, {num_repaired} repaired{removed}" if found.problems else "sound"
    echo(f"{index}: {found.videos} videos, {found.segments} segments checked: {verdict}")


def _numbers(option: str, given: list[str] | None) -> list[float] | None:
    """Numbers that were repeated, or listed with commas."""
    from clipvip.errors import UsageError

    if not given:
        return None
    try:
        return [float(number) for text in given for number in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} {' '.join(given)}: expected seconds, such as 12 or 12,6") from None
