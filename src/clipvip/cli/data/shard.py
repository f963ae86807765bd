"""`clipvip data shard`: the clips of a manifest as a few large tars."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from clipvip.cli.output import echo, echo_json
from clipvip.cli.progress import progress_bar

NAME = "shard"


def command(
    context: typer.Context,
    manifest: Annotated[Path | None, typer.Argument(metavar="MANIFEST")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder to write the shards to.")] = None,
    videos: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="Folder the media paths are relative to (the manifest's own).")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only the clips of this split.")] = None,
    as_: Annotated[
        str, typer.Option("--as", metavar="video|frames", help="Keep videos, or store JPEGs of their frames.")
    ] = "video",
    fps: Annotated[
        float | None,
        typer.Option(help="At most this many frames a second (default: videos all of theirs, --as frames 3)."),
    ] = None,
    short_side: Annotated[
        int | None, typer.Option(help="Scale larger pictures down to this short side, in pixels (videos: even).")
    ] = None,
    clips_per_shard: Annotated[int, typer.Option(help="A shard should have some hundred megabytes.")] = 1000,
    workers: Annotated[int, typer.Option(help="Processes; one a core is enough.")] = 2,
    on_decode_error: Annotated[
        str,
        typer.Option(metavar="skip|raise", help="Leave bad clips out and list them in bad_clips.jsonl, or stop."),
    ] = "skip",
    max_bad_share: Annotated[float, typer.Option(help="Stop if more of the clips than this are bad.")] = 0.05,
    verify: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Write nothing: compare the shards in DIR (or at a URL) with their checksums."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Write clips as WebDataset tars with an index, for training from few large files, also on an object store.

    Files are copied as they are, after a look at their first and last frame. With --fps or --short-side, and where a
    clip is only a part of its file, videos are encoded anew (H.264, no sound), never larger or faster than they are:
    the step that the paper's authors took first (--fps 3 to 6 --short-side 224). The same command goes on after an
    interruption.

    Example: clipvip data shard msrvtt.jsonl --out shards --fps 6 --short-side 224
    """

    from clipvip.data.shards import write_shards
    from clipvip.errors import UsageError

    given = [
        name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if verify is not None:
        if set(given) - {"verify", "as_json"}:
            raise UsageError("--verify DIR goes with --json only: it writes nothing")
        _verify(verify, as_json)
        return
    if manifest is None or out is None:
        raise UsageError("data shard needs MANIFEST --out DIR (or --verify DIR)")
    if on_decode_error == "raise" and "max_bad_share" in given:
        raise UsageError("--max-bad-share has no use with --on-decode-error raise: the first bad clip stops it")
    with progress_bar("writing shards") as progress:
        facts = write_shards(
            manifest,
            out,
            videos=videos,
            split=split,
            media=cast(Literal["video", "frames"], as_),
            fps=fps,
            short_side=short_side,
            clips_per_shard=clips_per_shard,
            workers=workers,
            on_decode_error=cast(Literal["skip", "raise"], on_decode_error),
            max_bad_share=max_bad_share,
            progress=progress,
        )
    if as_json:
        summary: dict[str, Any] = {"out": str(out), "shards": len(facts["shards"])}
        echo_json(summary | {key: facts[key] for key in ("clips", "bad_clips", "bytes", "texts")})
        return
    text = f"{facts['clips']:,} clips, {facts['bytes'] / 1e6:,.1f} MB -> {out} (tars: {len(facts['shards']):,})"
    if facts["bad_clips"]:
        text += f"\n  {facts['bad_clips']:,} bad clips left out: {out / 'bad_clips.jsonl'}"
    echo(text)


def _verify(location: str, as_json: bool) -> None:

    from clipvip.data.shards import ShardSet

    shards = ShardSet(location)
    with progress_bar("verifying", "files") as progress:
        shards.verify(progress)
    if as_json:
        echo_json({"shards": location, "clips": len(shards), "damaged": 0})
    else:
        echo(f"{location}: {len(shards):,} clips, every file is as it was written")
