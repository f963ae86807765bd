"""`clipvip reproduce`: repeat a published run, and leave a result that can be sent in."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clipvip.cli.output import echo, echo_json

if TYPE_CHECKING:
    from clipvip.reproduce.run import Step

NAME = "reproduce"


def command(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="A run that --list shows, with the published choices; NAME@clipvip: with ours."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Override recipe fields (train.micro_batch=16, train.seed=1)."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="Folder with the files that the plan lists.")
    ] = None,
    workdir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for all that is made; an interrupted run there goes on.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Start from this model folder, not the published checkpoint.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="FOLDER_OR_HUB_ID", help="Tokeniser for the checkpoint (default: CLIP's, from the hub)."),
    ] = None,
    on_decode_error: Annotated[
        Literal["raise", "skip"],
        typer.Option(help="Videos missing or not decodable: stop, or go on without (the result tells, and counts)."),
    ] = "raise",
    until: Annotated[
        str | None,
        typer.Option(metavar="STEP", help="End after this step: weights, manifests, check, train or evaluate."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, and what is missing; do nothing.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show the runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list, plan or result as JSON.")] = False,
) -> None:
    """Repeat a fine-tuning run of the paper: prepare its data, train, evaluate, compare with the published R@1.

    Without --data and --workdir (or with --dry-run) it prints the plan: files and where they are from, each step as the
    command that does it, and the R@1 that counts as reproduced. With both it does the steps; done ones are skipped, so
    the same command goes on after an interruption. result.json in the work folder is what to send us.

    Example: clipvip reproduce msrvtt-b32 --data MSRVTT --workdir runs/msrvtt-b32
    """

    from clipvip.errors import UsageError
    from clipvip.reproduce import load_run
    from clipvip.reproduce.run import Settings, plan, reproduce

    if list_:
        found = _list_runs()
        echo_json(found) if as_json else echo("\n".join(_list_lines(found)))
        return
    if name is None:
        raise UsageError("reproduce needs the NAME of a run (clipvip reproduce --list shows them)")
    if init is not None and tokenizer is not None:
        raise UsageError("--tokenizer is for the published checkpoint; --init MODEL brings its own")
    settings = Settings(
        run=load_run(name),
        data=data or Path("ROOT"),
        work=workdir or Path("DIR"),
        init=init,
        tokenizer=tokenizer,
        overrides=tuple(overrides or ()),
        on_decode_error=on_decode_error,
    )
    if dry_run or data is None or workdir is None:
        if until is not None:
            raise UsageError(f"--until {until}: goes with --data ROOT and --workdir DIR, and without --dry-run")
        planned = plan(settings, has_data=data is not None, has_work=workdir is not None)
        echo_json(planned) if as_json else echo("\n".join(_plan_lines(planned)))
        return
    result = reproduce(settings, partial(_run_verb, context), until=until, on_step=_show_step)
    if result is None:
        echo(f"done until {until}; the same command without --until goes on", err=as_json)
    elif as_json:
        echo_json(result)
    else:
        echo("\n".join(_result_lines(result, settings.work)))


def _run_verb(context: typer.Context, words: Sequence[str]) -> str:
    """What a verb prints on stdout; it is not shown."""
    verbs: Any = context.find_root().command  # the group of all verbs
    with redirect_stdout(io.StringIO()) as printed:
        verbs.commands[words[0]].main(list(words[1:]), prog_name=f"clipvip {words[0]}", standalone_mode=False)
    return printed.getvalue()


def _show_step(step: Step, done: bool) -> None:
    echo(f"{step.name}: {step.about}{' (done before)' if done else ''}", err=True)


def _list_runs() -> list[dict[str, Any]]:
    from clipvip.reproduce import list_runs, load_run
    from clipvip.training.recipes import resolve

    found = []
    for run in map(load_run, list_runs()):
        facts = {"name": run.name, "about": run.data.about, "recipe": run.recipe, "paper": run.figures.paper}
        found.append(facts | {"band": list(run.band), "ours": resolve(run.recipe).get("ours", "not yet run")})
    return found


def _list_lines(runs: list[dict[str, Any]]) -> Iterator[str]:
    for run in runs:
        yield f"{run['name']:16} {run['about']}"
        yield f"{'':16} paper: t2v R@1 {run['paper']['R@1']}; accepted {_band(run)}; ours: {run['ours']}"


def _plan_lines(plan: dict[str, Any]) -> Iterator[str]:
    yield f"{plan['run']}: {plan['about']}"
    yield f"  recipe    {plan['recipe']}"
    yield f"  paper     {', '.join(f'{key} {value}' for key, value in plan['paper'].items())} (t2v)"
    yield f"  ours      {plan['ours']}"
    yield f"  accepted  R@1 {_band(plan)}. {plan['why']}"
    yield ""
    yield f"files in {plan['data']} (size and SHA-256 as published)"
    for file in plan["files"]:
        size = "size unknown" if file["bytes"] is None else f"{file['bytes']:,} bytes"
        digest = "SHA-256 unknown" if file["sha256"] is None else f"SHA-256 {file['sha256']}"
        yield f"  {file['file']}{_state(file)}"
        yield f"      {file['about']}; {size}, {digest}"
        yield f"      from {file['from']}"
    videos = plan["videos"]
    yield f"  {videos['folder']}/{_state(videos)}"
    yield f"      {videos['about']}"
    yield f"      from {videos['from']}"
    yield ""
    yield "counts that the manifests must have"
    for split, counts in plan["splits"].items():
        told = [f"{what} {' or '.join(f'{n:,}' for n in counts[what]) or 'unknown'}" for what in ("clips", "captions")]
        yield f"  {split:6} {', '.join(told)}"
    yield ""
    for note in plan["notes"]:
        yield f"note: {note}"
    yield ""
    yield "steps (reproduce does them in this order; each may also be done by hand)"
    for number, step in enumerate(plan["steps"], 1):
        yield f"  {number}. {step['name']}: {step['about']}{'  [done]' if step['done'] else ''}"
        yield from (f"      {command}" for command in step["commands"])
    yield ""
    yield f"all of them: {plan['command']}"


def _state(file: dict[str, Any]) -> str:
    if "found" not in file:
        return ""
    if not file["found"]:
        return "  [missing]"
    return f"  [{file['problem']}]" if file.get("problem") else "  [found]"


def _result_lines(result: dict[str, Any], work: Path) -> Iterator[str]:
    verdict, figures = result["verdict"], result["figures"]
    low, high = verdict["interval"]
    place = "inside" if verdict["inside"] else "outside"
    yield (
        f"{result['run']}: t2v R@1 {verdict['R@1']:.1f} (95 % {low:.1f} to {high:.1f} over queries), "
        f"paper {verdict['paper']}, accepted {_band(verdict)}: {place} the band"
    )
    for kind, label in figures["labels"].items():
        values = figures[kind]["t2v"]
        yield f"  {label}: R@1 {values['R@1']:.1f}, R@5 {values['R@5']:.1f}, R@10 {values['R@10']:.1f}"
    yield f"  {figures['num_texts']:,} texts, {figures['num_videos']:,} videos"
    if not verdict["comparable"]:
        yield "but this is not the published run:"
        yield from (f"  {difference}" for difference in verdict["differs"])
    yield f"to send us: {work / 'result.json'}"


def _band(facts: dict[str, Any]) -> str:
    low, high = facts["band"]
    return f"{low:g} to {high:g}"
