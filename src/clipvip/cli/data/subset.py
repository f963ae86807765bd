"""`clipvip data subset`: a part of a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipvip.cli.options import Manifest, opt, takes
from clipvip.cli.output import echo, echo_json
from clipvip.errors import UsageError

NAME = "subset"


@dataclass(frozen=True, kw_only=True)
class SubsetOptions:
    manifest: Manifest
    out: Path = opt(..., "The manifest to write.", metavar="MANIFEST")
    share: float | None = opt(None, "About this share of the clips: 0.1 is a tenth.")
    count: int | None = opt(None, "Exactly this many clips.")
    seed: int = opt(0, "Another seed, another draw.")
    split: str | None = opt(None, "Draw from this split only (default: every line).")
    videos: Path | None = opt(None, "Folder the media paths are and stay relative to (default: the manifest's).")
    as_json: bool = opt(False, "Print the counts as JSON.")

    def __post_init__(self) -> None:
        if not self.out.parent.is_dir():
            raise UsageError(f"--out {self.out}: there is no folder {self.out.parent}")


@takes(SubsetOptions)
def command(options: SubsetOptions) -> None:
    """Draw a part of a manifest, in its order; it depends on the seed and the ids of the clips alone.

    So it is the same on every machine, and draws of one seed nest: 10 % is part of 20 %.

    Example: clipvip data subset hdvila-100m.jsonl --share 0.1 --out hdvila-10m.jsonl
    """

    from clipvip.cli.progress import counting
    from clipvip.data.tools import write_subset

    with counting("drawing") as watch:
        written, seen = write_subset(
            options.manifest, options.out, share=options.share, count=options.count, seed=options.seed,
            split=options.split, videos=options.videos, watch=watch,
        )  # fmt: skip
    if options.as_json:
        sizes = {"clips": written, "of": seen, "share": written / seen}
        echo_json({"out": str(options.out), **sizes, "seed": options.seed, "split": options.split})
    else:
        echo(f"{written:,} of {seen:,} clips ({100 * written / seen:.2f} %), seed {options.seed} -> {options.out}")
