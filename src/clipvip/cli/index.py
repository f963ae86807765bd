"""`clipvip index`: make the videos in some folders searchable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipvip.cli.options import Device, Dtype

NAME = "index"


def command(
    index: Annotated[str, typer.Option(metavar="URI", help="The index: a folder, made if it is not there.")],
    dirs: Annotated[
        list[Path] | None, typer.Argument(metavar="DIR...", help="Folders of videos (or single files).")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model folder or hub id (clipvip, or plain CLIP).")] = None,
    embeddings: Annotated[
        list[Path] | None,
        typer.Option(metavar="SET", help="Instead of folders and a model: what clipvip encode made; repeatable."),
    ] = None,
    window: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds a segment of a long video (default: 12).")
    ] = None,
    stride: Annotated[
        float | None, typer.Option(help="Seconds from segment to segment (default: half a window).")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a file was skipped.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Make the videos in folders searchable; unreadable files are named and skipped.

    The same command again indexes only new and changed files, and goes on after an interruption.

    Example: clipvip index ~/Videos --model runs/demo/model --index my-index
    """
    import json
    import time

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from clipvip.embedding_sets import open_embeddings
    from clipvip.errors import UsageError
    from clipvip.search import Library

    started = time.perf_counter()
    if embeddings:
        if dirs or model:
            raise UsageError("--embeddings goes without folders and without --model")
    elif not dirs or model is None:
        raise UsageError("index needs folders and --model M, or else --embeddings SET")
    library = Library(index, model, windows_s=window, strides_s=stride, device=device, dtype=dtype)
    console = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns(), MofNCompleteColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("indexing", total=None)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if embeddings:
            summary = library.add_embeddings(open_embeddings(*embeddings), on_progress=told)
        else:
            summary = library.add(dirs or [], on_progress=told)
    for skipped in summary.skipped:
        typer.echo(f"skipped {skipped.video}: {skipped.reason}", err=True)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "videos": summary.videos,
                    "segments": summary.segments,
                    "hours": summary.hours,
                    "unchanged": summary.unchanged,
                    "seconds": round(time.perf_counter() - started, 2),
                    "skipped": [{"video": str(s.video), "reason": s.reason} for s in summary.skipped],
                }
            )
        )
    else:
        unchanged = f" ({summary.unchanged} more unchanged)" if summary.unchanged else ""
        typer.echo(
            f"{summary.videos} videos, {summary.segments} segments, {summary.hours:.2f} hours, "
            f"{len(summary.skipped)} skipped{unchanged}; index: {index}"
        )
    if strict and summary.skipped:
        raise typer.Exit(1)
