"""`clipvip analyse`: what models and texts are like. One file a verb; a new one is a module with NAME and command."""

from __future__ import annotations

import typer

from clipvip.cli.analyse import gap, probe

NAME = "analyse"
app = typer.Typer(
    help="Analyses: gaps between kinds of text, whether a model sees time.",
    epilog="Example: clipvip analyse gap msrvtt.jsonl:captions hdvila.jsonl:subtitle --model models/vip-b32 --out gap",
    no_args_is_help=True,
)
for verb in (gap, probe):
    app.command(verb.NAME)(verb.command)
