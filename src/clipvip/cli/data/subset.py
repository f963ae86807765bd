"""`clipvip data subset`: a part of a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipvip.cli.options import arg, opt, takes
from clipvip.cli.output import echo, echo_json

NAME = "subset"


@dataclass(frozen=True, kw_only=True)
class SubsetOptions:
    """Of `clipvip data subset`."""

    manifest: Path = arg(..., "MANIFEST")
    out: Path = opt(..., "The manifest to write.", metavar="MANIFEST")
    share: float | None = opt(None, "About this share of the clips: 0.1 is a tenth.")
    count: int | None = opt(None, "Exactly this many clips.")
    seed: int = opt(0, "Another seed, another draw.")
    split: str | None = opt(None, "Draw from this split only (default: every line).")
    videos: Path | None = opt(None, "Folder the media paths are and stay relative to (default: the manifest's).")
    as_json: bool = opt(False, "Print the counts as JSON.")


@takes(SubsetOptions)
def command(options: SubsetOptions) -> None:
    """Draw a part of a manifest, in its order; which clips are in it hangs on the seed and their ids alone.

    So it is the same on every machine, and draws of one seed nest: 10 % is part of 20 %.

    Example: clipvip data subset hdvila-100m.jsonl --share 0.1 --out hdvila-10m.jsonl
    """

    from clipvip.cli.progress import counting
    from clipvip.data.tools import write_subset
    from clipvip.errors import UsageError

    if not options.out.parent.is_dir():
        raise UsageError(f"--out {options.out}: there is no folder {options.out.parent}")
    with counting("drawing") as watch:
        written, seen = write_subset(
            options.manifest,
            options.out,
            share=options.share,
            count=options.count,
            seed=options.seed,
            split=options.split,
            videos=options.videos,
            watch=watch,
        )
    if options.as_json:
        report = {
            "out": str(options.out),
            "clips": written,
            "of": seen,
            "share": written / seen,
            "seed": options.seed,
            "split": options.split,
        }
        echo_json(report)
    else:
        echo(f"{written:,} of {seen:,} clips ({100 * written / seen:.2f} %), seed {options.seed} -> {options.out}")
