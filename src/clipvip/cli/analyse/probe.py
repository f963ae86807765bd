"""`clipvip analyse probe`: whether a model sees time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipvip.cli.options import AsJson, ClipOptions, JoinCaptions, Model, OnDecodeError, arg, opt, takes
from clipvip.cli.output import echo, echo_json, make_console
from clipvip.cli.progress import progress_bar
from clipvip.terminal import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from clipvip.analysis import Probe

NAME = "probe"


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(ClipOptions):
    data: Path = arg(..., "MANIFEST", "Videos with captions.")
    model: Model
    join_captions: JoinCaptions = False
    out: Path | None = opt(
        None, "Write probe.json, a figure (.png, .pdf, .csv) and all scores (scores.csv).", metavar="DIR"
    )
    seed: int = opt(0, "Of the shuffled order and of the intervals.", min=0)
    batch_size: int = opt(4, "Clips in one pass through the model, each five times.", min=1)
    on_decode_error: OnDecodeError = "raise"
    as_json: AsJson = False
    device: str = opt("auto", "auto (CUDA, then MPS, then CPU), cpu, cuda, ...")


@takes(ProbeOptions)
def command(options: ProbeOptions) -> None:
    """Test whether a model sees time: reorder the frames that it gets, and see what its scores do.

    Orders: reversed, shuffled, halves swapped, and frozen (the middle frame only). For each: how far the score of a
    video's own caption moves (as cosine, and against the spread of scores over the gallery), and R@1 and twin accuracy
    with all videos changed. A model that averages frames moves by 0 under the first three. In float32.

    Example: clipvip analyse probe runs/demo/world/retrieval.jsonl --split test --model runs/demo/model --out probe
    """

    from clipvip.analysis import probe_time, remarks, write_probe
    from clipvip.data import read_manifest
    from clipvip.encode import load

    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)  # not after all the work
    clips = read_manifest(options.data, videos=options.videos, split=options.split)
    encoder = load(options.model, device=options.device, dtype="float32")
    with progress_bar("encoding, five times each") as progress:
        probe = probe_time(
            encoder, clips, join_captions=options.join_captions, seed=options.seed, batch_size=options.batch_size,
            on_decode_error=options.on_decode_error, progress=progress,
        )  # fmt: skip
    for clip_id, reason in probe.plain.skipped.items():
        echo(one_line(f"skipped {clip_id}: {reason}"), err=True)
    report = {
        "model": options.model, "data": str(options.data), "split": options.split,
        "join_captions": options.join_captions, **probe.to_dict(),
    }  # fmt: skip
    if options.out is not None:
        write_probe(options.out, probe, report)
    if options.as_json:
        echo_json(report)
        return
    make_console().print(_table(probe))
    echo("\n".join(remarks(probe)))
    if options.out is not None:
        echo(f"figure and tables: {options.out}")


def _table(probe: Probe) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    left_out = f" ({len(probe.plain.skipped)} could not be decoded and are left out)" if probe.plain.skipped else ""
    title = f"{len(probe.plain.texts)} captions, {len(probe.plain.clips)} videos{left_out}"
    table = Table(title=title, box=SIMPLE, pad_edge=False, collapse_padding=True)  # within 80 columns
    titles = ["order", "mean |change|\n(of spread)", "mean\nchange", "R@1", "change\nof R@1", "95 %"]
    for title in titles + (["twins"] if probe.twins is not None else []):
        table.add_column(title, justify="left" if title == "order" else "right", no_wrap=True)
    for change in probe.changes:
        relative = "" if change.relative is None else f" ({change.relative:.0%})"
        cells = [
            change.name,
            f"{change.mean_abs.value:.4f}{relative}" if change.mean_abs.value else "0",
            f"{change.mean.value:+.4f}" if change.mean.value else "0",
            f"{change.recall:.1f}",
            f"{change.recall_change.value:+.1f}",
            f"{change.recall_change.low:+.1f} to {change.recall_change.high:+.1f}",
        ]
        table.add_row(*cells, *([] if change.twins is None else [f"{change.twins:.1f}"]))
    return table
