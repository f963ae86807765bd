"""The command line: one file a verb. Verbs import what they need when they run, so that `--help` is quick."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from clipvip import __version__
from clipvip.cli import demo, evaluate, index, search, train
from clipvip.errors import ClipVipError, Interrupted, UsageError

app = typer.Typer(
    help="CLIP-ViP text-to-video retrieval: train it, measure it, search your own videos.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (demo, train, evaluate, index, search):
    app.command(verb.NAME)(verb.command)

_debug = False


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    global _debug
    _debug = debug


def main() -> None:
    """Entry point: errors become one line on stderr and an exit code (1 run time, 2 usage, 130 or 143 interrupted)."""
    # Quiet the libraries unless the user asked for their noise.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for interruption in (signal.SIGINT, signal.SIGTERM):
        signal.signal(interruption, _interrupt)
    try:
        app(prog_name="clipvip")
    except ClipVipError as error:
        if _debug:
            raise
        typer.echo(f"clipvip: {error}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except Interrupted as interruption:
        typer.echo("clipvip: interrupted; what was written is kept, and the same command goes on from there", err=True)
        sys.exit(128 + interruption.signum)


def _interrupt(signum: int, _: object) -> None:
    raise Interrupted(signum)
