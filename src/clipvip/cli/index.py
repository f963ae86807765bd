"""`clipvip index`: make the videos in some folders searchable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipvip.cli.options import AsJson, DeviceOptions, arg, opt, option, takes
from clipvip.cli.output import echo, echo_json
from clipvip.errors import UsageError

if TYPE_CHECKING:
    from clipvip.search import IndexSummary, Library

NAME = "index"
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Leave out what matches below the folders, as in a .gitignore (or a .clipvipignore); repeatable.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class UpdateOptions(DeviceOptions):
    """What all verbs share that encode videos into an index."""

    index: str = opt(..., "The index: a folder, or s3://BUCKET/FOLDER; created if it is new.", metavar="URI")
    model: str | None = opt(None, "Model folder or hub id (clipvip, or plain CLIP); needed for a new index.")
    strict: bool = opt(False, "Exit with 1 if a file was skipped or is damaged.")
    as_json: AsJson = False

    def open(self, **cut: object) -> Library:
        """The index, or what will be one."""
        from clipvip.search import Library

        return Library(self.index, self.model, device=self.device, dtype=self.dtype, **cut)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class EncodeOptions(UpdateOptions):
    """How videos are cut and which are left out, for `clipvip index` and `clipvip library rebuild`."""

    window: list[str] | None = opt(
        None,
        "Length of a segment; several (repeated, or 12,6) find events of different lengths. Default: the length of "
        "the clips that the model was trained on, or 12.",
        metavar="SECONDS",
    )
    stride: list[str] | None = opt(
        None, "From segment to segment, one for each window (default: half of it).", metavar="SECONDS"
    )
    segment: str | None = opt(None, "Cut into windows (default), or at shot boundaries.", metavar="windows|shots")
    exclude: Exclude = None
    background: Path | None = opt(
        None,
        "Texts for `search --false-alarm` and `--rescore qbnorm`, one per line, or a manifest with captions.",
        metavar="FILE",
    )

    def __post_init__(self) -> None:
        if self.segment not in (None, "windows", "shots"):
            raise UsageError(f"--segment {self.segment}: choose windows or shots")

    def open(self, **cut: object) -> Library:
        """The index, or what will be one, cut as these options say."""
        windows_s, strides_s = _numbers("--window", self.window), _numbers("--stride", self.stride)
        shots = None if self.segment is None else self.segment == "shots"
        return super().open(windows_s=windows_s, strides_s=strides_s, shots=shots)


@dataclass(frozen=True, kw_only=True)
class IndexOptions(EncodeOptions):
    """Of `clipvip index`. The hidden ones moved to `clipvip library`, and are accepted here for one more release."""

    dirs: list[Path] | None = arg(
        None, "DIR...", "Folders of videos, or single files (default: all that were indexed)."
    )
    embeddings: list[Path] | None = opt(
        None, "Instead of folders and a model: what clipvip encode wrote; repeatable.", metavar="SET"
    )
    status: bool = opt(False, "", hidden=True)
    verify: bool = opt(False, "", hidden=True)
    content: bool = opt(False, "", hidden=True)
    prune: bool = opt(False, "", hidden=True)
    force: bool = opt(False, "", hidden=True)
    forget: list[Path] | None = opt(None, "", hidden=True)
    rebuild: bool = opt(False, "", hidden=True)
    upgrade: bool = opt(False, "", hidden=True)
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embeddings and (self.dirs or self.model or self.exclude):
            raise UsageError("--embeddings goes without folders, without --model and without --exclude")

    def update(self, library: Library, **on: Callable[..., None]) -> IndexSummary:
        """Add what is new or changed."""
        if not library.exists and self.dirs and self.model is None:
            raise UsageError(f"{self.index}: no search index there; a new one needs --model M")
        if self.embeddings:
            from clipvip.embedding_sets import open_embeddings

            return library.add_embeddings(open_embeddings(*self.embeddings), on_progress=on["on_progress"])
        summary = library.add(self.dirs or None, exclude=self.exclude or (), **on)
        if self.prune:
            pruned = library.prune(self.exclude or (), force=self.force)
            summary.removed += pruned.removed
            summary.missing = max(0, summary.missing - pruned.removed) if pruned.skipped else 0
            summary.skipped += [skip for skip in pruned.skipped if skip.video not in {s.video for s in summary.skipped}]
        return summary


@takes(IndexOptions)
def command(options: IndexOptions) -> None:
    """Make the videos in folders searchable; unreadable files are reported and skipped.

    The same command again indexes only new and changed files, and resumes after an interruption. Moved files keep
    their vectors. Hidden files and system folders of NAS and operating systems (@eaDir, #recycle, lost+found, ...) are
    left out, and so is what .clipvipignore files name, in the syntax of .gitignore.

    For what is in an index, and for checks, removals and rebuilding, see `clipvip library --help`.

    Example: clipvip index ~/Videos --model runs/demo/model --index my-index
    """
    if not _run_old_flag(options):
        update(options, options.update, options.background)


def update(
    options: UpdateOptions, work: Callable[..., IndexSummary], background: Path | None = None, unchanged: str = ""
) -> None:
    """Do `work(library, on_progress=, on_hours=)` and report it; `unchanged` is printed if there was nothing to do."""
    import time

    from clipvip.cli.render.index_report import summary_json, summary_line, summary_problems
    from clipvip.search import IndexSummary, read_texts

    started = time.perf_counter()
    library = options.open()
    texts = None if background is None else read_texts(background)  # a mistake in it is found before the work
    with _progress() as (on_progress, on_hours):
        summary = work(library, on_progress=on_progress, on_hours=on_hours)
    if texts is not None:
        library.set_background(texts)
    seconds = time.perf_counter() - started
    for line in summary_problems(summary):
        echo(line, err=True)
    if options.as_json:
        echo_json(summary_json(summary, seconds))
    elif unchanged and summary == IndexSummary():
        echo(unchanged)
    else:
        echo(summary_line(summary, options.index, seconds))
    if options.strict and (summary.skipped or summary.damaged):
        raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[tuple[Callable[[int, int], None], Callable[[float], None]]]:
    """Two functions, to be called with the files done and all files, and with hours of video that were encoded."""
    import time

    from clipvip.progress import progress_line

    details = "{task.fields[hours]:.2f} h of video, {task.fields[speed]:.0f} h per hour"
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


def _run_old_flag(options: IndexOptions) -> bool:
    """Run the `clipvip library` command of a flag that moved there. False: there is none, or `clipvip index` runs, too.

    Raises: UsageError if the flag was given together with options that its command does not have.
    """
    from clipvip.cli.library import VERBS

    for part, flag in (("content", "verify"), ("force", "prune")):
        if part in options.given and flag not in options.given:
            raise UsageError(f"--{part} is an option of clipvip library {flag}")
    old = [flag for flag in VERBS if flag in options.given]
    if not old:
        return False
    flag, is_own = old[0], old == ["prune"]  # --prune indexes first
    known = signature(VERBS[flag]).parameters
    foreign = sorted(options.given - {flag, *known})
    if foreign and not is_own:
        name = "DIR" if foreign[0] == "dirs" else option(foreign[0])
        raise UsageError(f"--{flag} does not go with {name}: clipvip library {flag} has no such option")
    echo(f"clipvip: --{flag} is deprecated, use: clipvip library {flag} --index {options.index}", err=True)
    if not is_own:
        values = asdict(options) | {"folders": options.forget}
        VERBS[flag](**{name: values[name] for name in known})
    return not is_own


def _numbers(name: str, texts: list[str] | None) -> list[float] | None:
    """Numbers that were repeated, or listed with commas."""
    if not texts:
        return None
    try:
        return [float(number) for text in texts for number in text.split(",")]
    except ValueError:
        raise UsageError(f"{name} {' '.join(texts)}: expected seconds, such as 12 or 12,6") from None
