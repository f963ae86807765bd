"""`clipvip train`: run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipvip.cli.output import echo, echo_json

if TYPE_CHECKING:
    from clipvip.training import Recipe

NAME = "train"


def command(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name (see --list) or a YAML file; NAME@released: as released.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Override recipe fields.")
    ] = None,
    workdir: Annotated[Path | None, typer.Option(help="Folder of the run; an interrupted run there goes on.")] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show the recipes in the package, or all there is to RECIPE; runs nothing.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Tell what the run would take (parameters, FLOPs, memory, time) after timing three of its steps; "
            "writes nothing, and needs no --workdir.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary (or the list, or the dry run's findings) as JSON.")
    ] = False,
) -> None:
    """Train a model as a recipe says; the same command again resumes an interrupted run.

    Example: clipvip train demo/finetune model.init=runs/demo/runs/pretrain/model
    data.train=runs/demo/world/retrieval.jsonl data.val=runs/demo/world/retrieval.jsonl --workdir runs/mine

    Before a long run: clipvip train scratch/b32 model.tokenizer=openai/clip-vit-base-patch32 data.train=clips.jsonl
    --dry-run
    """
    from clipvip.errors import UsageError

    if list_:
        if workdir is not None or dry_run:
            raise UsageError(f"--list runs nothing: leave out {'--dry-run' if dry_run else '--workdir'}")
        show(recipe, overrides or [], as_json)
        return
    if recipe is None or (workdir is None and not dry_run):
        raise UsageError("train needs a RECIPE and --workdir DIR (clipvip train --list shows the recipes)")

    from clipvip.training.recipes import check_start, load_recipe

    checked = load_recipe(recipe, overrides or [])
    check_start(recipe, checked)
    if dry_run or workdir is None:
        show_plan(checked, as_json)
        return

    from clipvip.distributed import rank
    from clipvip.training import train

    summary = train(checked, workdir)
    if rank() > 0:
        return  # the main process speaks for all
    if as_json:
        echo_json(summary)
        return
    best = "" if summary["best_val_R@1"] is None else f", best validation t2v R@1 {summary['best_val_R@1']:.1f}"
    skipped = f", {len(summary['skipped'])} clips skipped (listed in summary.json)" if summary["skipped"] else ""
    echo(f"{summary['steps']} steps in {summary['seconds']:.0f} s{best}{skipped}; model: {workdir / 'model'}")


def show_plan(recipe: Recipe, as_json: bool) -> None:
    """Print what a run would take."""

    from clipvip.cli.render import recipe_plan
    from clipvip.distributed import rank
    from clipvip.training.plan import plan

    found = plan(recipe)
    if rank() == 0:  # the main process speaks for all
        echo_json(found) if as_json else echo(recipe_plan.as_text(found))


def show(recipe: str | None, overrides: list[str], as_json: bool) -> None:
    """Print one recipe, or all."""

    from clipvip.cli.render import recipe_list
    from clipvip.training.listing import describe, listed

    if recipe is not None:
        listing = describe(recipe, overrides)
        echo_json(recipe_list.as_json(listing)) if as_json else echo(recipe_list.as_full_text(listing))
        return
    listings = listed()
    if as_json:
        echo_json([recipe_list.as_json(listing) for listing in listings])
    else:
        echo(recipe_list.as_text(listings))
