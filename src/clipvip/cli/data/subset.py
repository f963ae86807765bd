"""`clipvip data subset`: a part of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipvip.cli.output import echo, echo_json

NAME = "subset"


def command(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST")],
    out: Annotated[Path, typer.Option(metavar="MANIFEST", help="The manifest to write.")],
    share: Annotated[float | None, typer.Option(help="About this share of the clips: 0.1 is a tenth.")] = None,
    count: Annotated[int | None, typer.Option(help="Exactly this many clips.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another draw.")] = 0,
    split: Annotated[str | None, typer.Option(help="Draw from this split only (default: every line).")] = None,
    videos: Annotated[
        Path | None, typer.Option(help="Folder the media paths are and stay relative to (default: the manifest's).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Draw a part of a manifest, in its order; which clips are in it hangs on the seed and their ids alone.

    So it is the same on every machine, and draws of one seed nest: 10 % is part of 20 %.

    Example: clipvip data subset hdvila-100m.jsonl --share 0.1 --out hdvila-10m.jsonl
    """

    from clipvip.cli.progress import counting
    from clipvip.data.tools import write_subset
    from clipvip.errors import UsageError

    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")
    with counting("drawing") as watch:
        written, seen = write_subset(
            manifest, out, share=share, count=count, seed=seed, split=split, videos=videos, watch=watch
        )
    if as_json:
        report = {"out": str(out), "clips": written, "of": seen, "share": written / seen, "seed": seed, "split": split}
        echo_json(report)
    else:
        echo(f"{written:,} of {seen:,} clips ({100 * written / seen:.2f} %), seed {seed} -> {out}")
