"""`clipvip serve`: look at what is found, and press play."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipvip.cli.options import Device, Dtype
from clipvip.cli.output import echo

if TYPE_CHECKING:
    from clipvip.serve.config import ServeConfig

NAME = "serve"


def command(
    index: Annotated[str, typer.Option(metavar="URI", help="An index made by `clipvip index`.")],
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one, which is told.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="CLIPVIP_TOKEN", help="What clients must know (16 characters or more).")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Another host name under which the server is reached, as behind a proxy; repeatable."),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    allow_new_roots: Annotated[
        bool, typer.Option("--allow-new-roots", help="Let the page index any folder of this machine.")
    ] = False,
    rate: Annotated[float, typer.Option(min=0, help="Requests a second of one client (0: no limit).")] = 50.0,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For copies of videos that browsers cannot play.")
    ] = None,
    cache_gib: Annotated[float, typer.Option(min=0.01, help="How large --cache may become.")] = 4.0,
    model: Annotated[str | None, typer.Option(help="Where the model of the index is now, if it has moved.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Serve a page and a REST API that search an index and play what is found. Ctrl-C ends it.

    Example: clipvip serve --index my-index --open
    """
    from clipvip.serve.config import ServeConfig, cache_folder

    config = ServeConfig(
        host=host,
        port=port,
        token=token,
        names=tuple(name or ()),
        allow_new_roots=allow_new_roots,
        cache=cache or cache_folder(index),
        cache_bytes=int(cache_gib * 2**30),
        requests_per_s=rate,
    )
    serve(index, config, model=model, device=device, dtype=dtype, open_browser=open_browser)


def serve(
    index: str,
    config: ServeConfig,
    *,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    open_browser: bool = False,
) -> None:
    """Serve until a signal comes."""
    import sys
    import webbrowser

    from clipvip.encode import local_encoder
    from clipvip.search import Library
    from clipvip.serve.app import create_app
    from clipvip.serve.indexing import Task
    from clipvip.serve.run import bind, run, url_of

    library = Library(index, model, device=device, dtype=dtype)
    source = model or library.settings.model
    with bind(config.host, config.port) as listener:  # a port in use shall not wait for the model
        app = create_app(Task(library.uri, source, device, dtype, None), local_encoder(library.encoder), config)
        url = url_of(listener)
        entrance = f"{url}?token={config.token}" if config.token else url

        def started() -> None:
            shown = entrance if sys.stdout.isatty() else url  # logs are no place for a token
            echo(f"serving {index} at {shown} (Ctrl-C ends it)")
            if open_browser:
                webbrowser.open(entrance)

        run(app, config, listener, started)
