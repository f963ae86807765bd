"""`clipvip evaluate`: retrieval scores of a model on a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clipvip.cli.options import Device, Dtype

if TYPE_CHECKING:
    from rich.table import Table

    from clipvip.embedding_sets import EmbeddingSet
    from clipvip.encode import Encoder

NAME = "evaluate"


def command(
    data: Annotated[Path, typer.Option(help="Manifest with captions.")],
    model: Annotated[str | None, typer.Option(help="Model folder or hub id (clipvip, or plain CLIP).")] = None,
    embeddings: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Instead of --model: what clipvip encode made of this manifest; repeatable."),
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(help="Folder the media paths are relative to (default: the manifest's).")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split (default: every line).")] = None,
    rescore: Annotated[str | None, typer.Option(help="Also report a re-scoring: dsl (transductive).")] = None,
    join_captions: Annotated[
        bool, typer.Option(help="One query a clip: its captions joined (paragraph retrieval).")
    ] = False,
    on_decode_error: Annotated[
        Literal["raise", "skip"],
        typer.Option(help="A clip that cannot be decoded: raise, or skip it (N is then smaller, and told)."),
    ] = "raise",
    output: Annotated[Path | None, typer.Option(help="Write the scores to this JSON file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Measure text-to-video and video-to-text retrieval: R@1/5/10, median and mean rank.

    Example: clipvip evaluate --model runs/demo/model --data runs/demo/world/retrieval.jsonl --split test --rescore dsl
    """
    import json

    from rich.console import Console

    from clipvip.data.manifest import read_manifest
    from clipvip.encode import load
    from clipvip.errors import UsageError
    from clipvip.evaluation import chance_level, run_retrieval, score_retrieval

    if rescore not in (None, "dsl"):
        raise UsageError(f"--rescore {rescore}: choose dsl, or leave it out")
    if output and not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}")  # not after all the work
    if (model is None) == (not embeddings):
        raise UsageError("evaluate needs --model M, or else --embeddings DIR")
    clips = read_manifest(data, videos=videos, split=split)
    encoder: Encoder | EmbeddingSet
    if model is not None:
        encoder = load(model, device=device, dtype=dtype)
    else:
        from clipvip.embedding_sets import open_embeddings

        encoder = open_embeddings(*(embeddings or ()))
        model = encoder.facts[0].model
    found = run_retrieval(
        encoder, clips, join_captions=join_captions, progress=not as_json, on_decode_error=on_decode_error
    )
    for clip_id, reason in found.skipped.items():
        typer.echo(f"skipped {clip_id}: {reason}", err=True)
    scores = score_retrieval(found, dsl=rescore == "dsl")
    report = {
        "model": model,
        "fingerprint": found.fingerprint,
        "dtype": encoder.dtype,
        "data": str(data),
        "split": split,
        "num_texts": len(found.texts),
        "num_videos": len(found.clips),
        "skipped": dict(found.skipped),
        "chance": chance_level(len(found.clips)),
        **scores,
    }
    if output:
        output.write_text(json.dumps(report, indent=2), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(report))
    else:
        Console().print(score_table(report))


def score_table(report: dict[str, Any]) -> Table:
    """The scores as people read them. report: num_texts, num_videos, skipped?, chance, plain, dsl?, twin_accuracy?."""
    from rich.table import Table

    left_out = f" ({len(report['skipped'])} could not be decoded and are left out)" if report.get("skipped") else ""
    table = Table(title=f"{report['num_texts']} texts, {report['num_videos']} videos{left_out}")
    keys = ("R@1", "R@5", "R@10", "MdR", "MnR")
    for title in ("", *keys):
        table.add_column(title, justify="right" if title else "left")
    labels = {"plain": "plain", "dsl": "DSL (transductive)"}
    for kind, label in labels.items():
        for direction in ("t2v", "v2t"):
            if kind in report:
                table.add_row(f"{direction} {label}", *(f"{report[kind][direction][key]:.1f}" for key in keys))
    table.add_row("t2v chance", *(f"{report['chance'][key]:.1f}" if key in report["chance"] else "" for key in keys))
    if "twin_accuracy" in report:
        table.caption = (
            f"twin accuracy {report['twin_accuracy']:.1f} % (own video above its time-reversed twin; chance 50 %)"
        )
    return table
