"""`clipvip data`: manifests. One file a verb; a new one is a module with NAME and command, and a word below."""

from __future__ import annotations

import typer

from clipvip.cli.data import check, import_, shard, stats, subset

NAME = "data"
app = typer.Typer(
    help="Manifests: make them from the files of data sets, look into them, check and pack their clips.",
    epilog="Example: clipvip data import msrvtt MSRVTT_data.json --videos MSRVTT/videos --out msrvtt.jsonl",
    no_args_is_help=True,
)
for verb in (import_, check, shard, stats, subset):
    app.command(verb.NAME)(verb.command)
