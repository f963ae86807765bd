"""`clipvip data shard`: the clips of a manifest as a few large tars."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from clipvip.cli.options import ClipOptions, arg, opt, takes
from clipvip.cli.output import echo, echo_json
from clipvip.cli.progress import progress_bar
from clipvip.errors import UsageError

NAME = "shard"


@dataclass(frozen=True, kw_only=True)
class ShardOptions(ClipOptions):
    manifest: Path | None = arg(None, "MANIFEST")
    out: Path | None = opt(None, "The folder to write the shards to.", metavar="DIR")
    as_: str = opt("video", "Keep videos, or store JPEGs of their frames.", "--as", metavar="video|frames")
    fps: float | None = opt(None, "At most this many frames per second (default: all for videos, 3 for --as frames).")
    short_side: int | None = opt(None, "Scale larger pictures down to this short side, in pixels (videos: even).")
    clips_per_shard: int = opt(1000, "A shard should have some hundred megabytes.")
    workers: int = opt(2, "Processes; one per core is enough.")
    on_decode_error: str = opt(
        "skip", "Leave bad clips out and list them in bad_clips.jsonl, or stop.", metavar="skip|raise"
    )
    max_bad_share: float = opt(0.05, "Stop if more of the clips than this are bad.")
    verify: str | None = opt(
        None, "Write nothing: compare the shards in DIR (or at a URL) with their checksums.", metavar="DIR"
    )
    as_json: bool = opt(False, "Print the summary as JSON.")
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.verify is not None:
            if self.given - {"verify", "as_json"}:
                raise UsageError("--verify DIR goes with --json only: it writes nothing")
        elif self.manifest is None or self.out is None:
            raise UsageError("data shard needs MANIFEST --out DIR (or --verify DIR)")
        elif self.on_decode_error == "raise" and "max_bad_share" in self.given:
            raise UsageError("--max-bad-share has no use with --on-decode-error raise: the first bad clip stops it")


@takes(ShardOptions)
def command(options: ShardOptions) -> None:
    """Write clips as WebDataset tars with an index, for training from few large files, also on an object store.

    Files are copied as they are, after a look at their first and last frame. With --fps or --short-side, and where a
    clip is only a part of its file, videos are encoded again (H.264, no sound), never larger or faster than they are:
    the step that the paper's authors took first (--fps 3 to 6 --short-side 224). The same command resumes after an
    interruption.

    Example: clipvip data shard msrvtt.jsonl --out shards --fps 6 --short-side 224
    """

    from clipvip.data.shards import write_shards

    if options.verify is not None:
        _verify(options.verify, options.as_json)
        return
    assert options.manifest is not None
    assert options.out is not None
    with progress_bar("writing shards") as progress:
        facts = write_shards(
            options.manifest, options.out, videos=options.videos, split=options.split,
            media=cast(Literal["video", "frames"], options.as_), fps=options.fps, short_side=options.short_side,
            clips_per_shard=options.clips_per_shard, workers=options.workers,
            on_decode_error=cast(Literal["skip", "raise"], options.on_decode_error),
            max_bad_share=options.max_bad_share, progress=progress,
        )  # fmt: skip
    if options.as_json:
        summary: dict[str, Any] = {"out": str(options.out), "shards": len(facts["shards"])}
        echo_json(summary | {key: facts[key] for key in ("clips", "bad_clips", "bytes", "texts")})
        return
    text = f"{facts['clips']:,} clips, {facts['bytes'] / 1e6:,.1f} MB -> {options.out} (tars: {len(facts['shards']):,})"
    if facts["bad_clips"]:
        text += f"\n  {facts['bad_clips']:,} bad clips left out: {options.out / 'bad_clips.jsonl'}"
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
