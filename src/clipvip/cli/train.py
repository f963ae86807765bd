"""`clipvip train`: run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NAME = "train"


def command(
    recipe: Annotated[str | None, typer.Argument(help="A recipe's name (see --list) or a YAML file.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Override recipe fields.")
    ] = None,
    workdir: Annotated[Path | None, typer.Option(help="Folder of the run; an interrupted run there goes on.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the recipes in the package.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Train a model as a recipe says; the same command again resumes an interrupted run.

    Example: clipvip train demo/finetune model.init=runs/demo/runs/pretrain/model
    data.train=runs/demo/world/retrieval.jsonl data.val=runs/demo/world/retrieval.jsonl --workdir runs/mine
    """
    from clipvip.errors import UsageError
    from clipvip.training.recipes import list_recipes, load_recipe

    if list_:
        for name, about in list_recipes().items():
            typer.echo(f"{name:24} {about}")
        return
    if recipe is None or workdir is None:
        raise UsageError("train needs a RECIPE and --workdir DIR (clipvip train --list shows the recipes)")
    checked = load_recipe(recipe, overrides or [])

    import json

    from clipvip.training import train

    summary = train(checked, workdir)
    if as_json:
        typer.echo(json.dumps(summary))
        return
    best = "" if summary["best_val_R@1"] is None else f", best validation t2v R@1 {summary['best_val_R@1']:.1f}"
    skipped = f", {len(summary['skipped'])} clips skipped (listed in summary.json)" if summary["skipped"] else ""
    typer.echo(f"{summary['steps']} steps in {summary['seconds']:.0f} s{best}{skipped}; model: {workdir / 'model'}")
