"""`clipvip serve`: look at what is found, and press play."""

from __future__ import annotations

from typing import Annotated

import typer

from clipvip.cli.options import Device, Dtype

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
    model: Annotated[str | None, typer.Option(help="Where the model of the index is now, if it has moved.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Serve a page and a REST API that search an index and play what is found. Ctrl-C ends it.

    Example: clipvip serve --index my-index --open
    """
    import webbrowser

    from clipvip.search import Library
    from clipvip.serve.app import create_app
    from clipvip.serve.config import ServeConfig, cache_folder
    from clipvip.serve.run import bind, run, url_of

    config = ServeConfig(host=host, port=port, token=token, names=tuple(name or ()), cache=cache_folder(index))
    library = Library(index, model, device=device, dtype=dtype)
    library.refresh()  # fails here if there is no index
    with bind(config.host, config.port) as listener:  # a port in use shall not wait for the model
        encoder = library.encoder
        url = url_of(listener)

        def started() -> None:
            typer.echo(f"serving {index} at {url} (Ctrl-C ends it)")
            if open_browser:
                webbrowser.open(url + (f"?token={token}" if token else ""))

        run(create_app(library, encoder, config), config, listener, started)
