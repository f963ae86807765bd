"""`clipvip encode`: embeddings of a whole manifest, made once and used many times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipvip.cli.options import Address, Device, Dtype, EngineName, Workers, crew
from clipvip.cli.output import echo, echo_json
from clipvip.cli.progress import progress_bar
from clipvip.terminal import one_line

NAME = "encode"


def command(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST")],
    model: Annotated[str, typer.Option(help="Model folder or hub id (clipvip, or plain CLIP).")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the embedding set.")],
    videos: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="Folder the media paths are relative to (the manifest's own).")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only the clips of this split.")] = None,
    texts: Annotated[bool, typer.Option(help="Encode captions, subtitles and auxiliary captions as well.")] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips in one pass through the model.")] = 16,
    part_size: Annotated[
        int, typer.Option(min=1, help="Clips in one file; an interruption costs at most that.")
    ] = 1000,
    max_bad_share: Annotated[
        float, typer.Option(min=0, max=1, help="Stop if more of the clips than this cannot be decoded.")
    ] = 0.05,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Write an embedding set: Parquet files with a row for each clip and each of its texts.

    `clipvip evaluate --embeddings DIR` and `clipvip index --embeddings DIR` take it instead of encoding again. Clips
    that cannot be decoded are listed and left out. The same command goes on after an interruption.

    Example: clipvip encode msrvtt.jsonl --split test --model models/vip-b32 --out msrvtt-test
    """
    import time
    from dataclasses import asdict

    from clipvip.embedding_sets import encode_manifest

    started = time.perf_counter()
    job_engine, num_workers = crew(engine, address, workers)
    with progress_bar("encoding") as progress:
        facts = encode_manifest(
            manifest,
            out,
            model=model,
            videos=videos,
            split=split,
            texts=texts,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            part_size=part_size,
            workers=num_workers,
            engine=job_engine,
            max_bad_share=max_bad_share,
            progress=progress,
        )
    for clip_id, reason in facts.failures.items():
        echo(one_line(f"skipped {clip_id}: {reason}"), err=True)
    if as_json:
        echo_json(asdict(facts) | {"out": str(out), "seconds": round(time.perf_counter() - started, 2)})
        return
    bad = f", {len(facts.failures)} clips left out" if facts.failures else ""
    echo(f"{facts.clips:,} clips, {facts.rows:,} embeddings{bad} -> {out}")
