"""`clipvip train`: run a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipvip.cli.options import arg, opt, takes
from clipvip.cli.output import echo, echo_json
from clipvip.errors import UsageError

if TYPE_CHECKING:
    from clipvip.training import Recipe

NAME = "train"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    recipe: str | None = arg(None, "RECIPE", "A recipe's name (see --list) or a YAML file; NAME@released: as released.")
    overrides: list[str] | None = arg(None, "[KEY=VALUE]...", "Override recipe fields.")
    workdir: Path | None = opt(None, "Folder of the run; an interrupted run there is resumed.")
    list_: bool = opt(False, "Show the recipes in the package, or all there is to RECIPE; runs nothing.")
    dry_run: bool = opt(
        False,
        "Estimate parameters, FLOPs, memory and time, after timing three steps; writes nothing, and needs no "
        "--workdir.",
    )
    as_json: bool = opt(False, "Print the summary (or the list, or the result of the dry run) as JSON.")

    def __post_init__(self) -> None:
        if self.list_ and (self.workdir is not None or self.dry_run):
            raise UsageError(f"--list runs nothing: leave out {'--dry-run' if self.dry_run else '--workdir'}")
        if not self.list_ and (self.recipe is None or (self.workdir is None and not self.dry_run)):
            raise UsageError("train needs a RECIPE and --workdir DIR (clipvip train --list shows the recipes)")


@takes(TrainOptions)
def command(options: TrainOptions) -> None:
    """Train a model as a recipe says; the same command again resumes an interrupted run.

    Example: clipvip train demo/finetune model.init=runs/demo/runs/pretrain/model
    data.train=runs/demo/world/retrieval.jsonl data.val=runs/demo/world/retrieval.jsonl --workdir runs/mine

    Before a long run: clipvip train scratch/b32 model.tokenizer=openai/clip-vit-base-patch32 data.train=clips.jsonl
    --dry-run
    """
    if options.list_:
        show(options.recipe, options.overrides or [], options.as_json)
        return

    from clipvip.distributed import rank
    from clipvip.training.recipes import check_start, load_recipe

    assert options.recipe is not None
    recipe = load_recipe(options.recipe, options.overrides or [])
    check_start(options.recipe, recipe)
    if options.dry_run or options.workdir is None:
        show_plan(recipe, options.as_json)
        return

    from clipvip.training import train

    summary = train(recipe, options.workdir)
    if rank() == 0:  # the main process speaks for all
        echo_json(summary) if options.as_json else echo(_summary_line(summary, options.workdir))


def _summary_line(summary: dict[str, Any], workdir: Path) -> str:
    best = "" if summary["best_val_R@1"] is None else f", best validation t2v R@1 {summary['best_val_R@1']:.1f}"
    skipped = f", {len(summary['skipped'])} clips skipped (listed in summary.json)" if summary["skipped"] else ""
    return f"{summary['steps']} steps in {summary['seconds']:.0f} s{best}{skipped}; model: {workdir / 'model'}"


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
