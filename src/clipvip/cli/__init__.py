"""The command line: one file per verb. Verbs import what they need when they run, so that `--help` is quick."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from types import TracebackType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from clipvip import __version__
from clipvip.cli import (
    analyse,
    caption,
    convert,
    data,
    demo,
    encode,
    evaluate,
    index,
    library,
    reproduce,
    search,
    serve,
    train,
)  # fmt: skip
from clipvip.cli.output import echo
from clipvip.errors import ClipVipError, ClipVipWarning, Interrupted, UsageError
from clipvip.terminal import log_to_stderr, one_line, printable


class _Group(TyperGroup):
    """Usage errors repeat words of the command line, which may be names of files."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        try:
            return super().make_context(*args, **options)
        except Exception as error:
            _escape_message(error)
            raise

    def invoke(self, *args: Any, **options: Any) -> Any:
        try:
            return super().invoke(*args, **options)
        except Exception as error:
            _escape_message(error)
            raise


def _escape_message(error: Exception) -> None:
    if hasattr(error, "format_message") and isinstance(message := getattr(error, "message", None), str):
        error.message = printable(message)  # type: ignore[attr-defined]


app = typer.Typer(
    cls=_Group,
    help="CLIP-ViP text-to-video retrieval: train it, measure it, search your own videos.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (demo, convert, caption, train, evaluate, encode, index, search, serve, reproduce):
    app.command(verb.NAME)(verb.command)
for group in (library, data, analyse):
    app.add_typer(group.app, name=group.NAME)

_debug = False


def _version(wanted: bool) -> None:
    if wanted:
        echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    import logging

    global _debug
    _debug = debug
    log_to_stderr(logging.DEBUG if debug else logging.WARNING)


def main() -> None:
    """Entry point: errors become one line on stderr and an exit code (1 run time, 2 usage, 130 or 143 interrupted)."""
    # Quiet the libraries unless the user asked for their noise.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("LANCE_LOG", "error")
    if "--debug" in sys.argv[1:]:  # wherever it stands
        sys.argv = [sys.argv[0], "--debug", *(word for word in sys.argv[1:] if word != "--debug")]
    handled = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    show = warnings.showwarning
    warnings.showwarning = lambda message, category, *rest, **options: (
        echo(one_line(f"clipvip: {message}"), err=True)
        if issubclass(category, ClipVipWarning)
        else show(message, category, *rest, **options)
    )
    before = {number: signal.signal(number, _interrupt) for number in handled}
    try:
        app(prog_name="clipvip")
    except Interrupted as interruption:
        echo("clipvip: interrupted; what was written is kept, the same command goes on", err=True)
        sys.exit(128 + interruption.signum)
    except (ClipVipError, OSError, ModuleNotFoundError) as error:
        if _debug:
            raise
        alike = isinstance(error, UsageError) and os.environ.get("RANK", "0") != "0"  # torchrun's other processes
        if not alike and not getattr(error, "repeated", False):
            echo(one_line(f"clipvip: {_told(error)}"), err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    finally:
        sys.excepthook = _show_traceback  # only now: typer has set its own
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_traceback(kind: type[BaseException], error: BaseException, place: TracebackType | None) -> None:
    import traceback

    echo("".join(traceback.format_exception(kind, error, place)).rstrip("\n"), err=True)


def _told(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f'the package {error.name!r} is missing; install everything with `pip install "clipvip[train,search]"`'
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
    return str(error)


def _interrupt(signum: int, _: object) -> None:
    raise Interrupted(signum)
