"""All that verbs print goes through here: names of files cannot give orders to a terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from clipvip.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleRenderable


def echo(text: str, *, err: bool = False) -> None:
    """Print text, on stderr if asked to; newlines and tabs stay, other control characters are escaped."""
    typer.echo(printable(text), err=err)


def echo_json(value: Any) -> None:
    """Print a value as one line of JSON, which escapes by rules of its own."""
    typer.echo(json.dumps(value))


def make_console(**options: Any) -> Console:
    """A rich console for tables and styled text, whose output is escaped like that of `echo`."""
    from rich.console import Console, ConsoleOptions, RenderHook, RenderResult
    from rich.segment import Segment

    class Escaped:
        def __init__(self, inner: Any):
            self.inner = inner

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for text, style, control in console.render(self.inner, options):
                yield Segment(text if control else printable(text), style, control)

    class Escape(RenderHook):
        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            return [Escaped(renderable) for renderable in renderables]

    console = Console(**options)
    console.push_render_hook(Escape())
    return console
