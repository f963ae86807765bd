"""`clipvip serve`: look at what is found, and press play."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipvip.cli.options import DeviceOptions, IndexUri, MovedModel, opt, takes
from clipvip.cli.output import echo

if TYPE_CHECKING:
    from clipvip.serve.config import ServeConfig

NAME = "serve"


@dataclass(frozen=True, kw_only=True)
class ServeOptions(DeviceOptions):
    index: IndexUri
    host: str = opt("127.0.0.1", "Address to listen on; any but loopback needs --token.")
    port: int = opt(8000, "0 picks a free port and prints it.", min=0, max=65535)
    token: str | None = opt(None, "Secret that clients must send (16 characters or more).", envvar="CLIPVIP_TOKEN")
    name: list[str] | None = opt(
        None, "Another host name under which the server is reached, as behind a proxy; repeatable."
    )
    open_browser: bool = opt(False, "Open the page in the browser.", "--open")
    allow_new_roots: bool = opt(False, "Let the page index any folder of this machine.")
    rate: float = opt(50.0, "Requests per second and client (0: no limit).", min=0)
    cache: Path | None = opt(None, "For copies of videos that browsers cannot play.", metavar="DIR")
    cache_gib: float = opt(4.0, "How large --cache may become.", min=0.01)
    model: MovedModel = None


@takes(ServeOptions)
def command(options: ServeOptions) -> None:
    """Serve a page and a REST API that search an index and play what is found. Ctrl-C ends it.

    Example: clipvip serve --index my-index --open
    """
    from clipvip.serve.config import ServeConfig, cache_folder

    config = ServeConfig(
        host=options.host, port=options.port, token=options.token, names=tuple(options.name or ()),
        allow_new_roots=options.allow_new_roots, cache=options.cache or cache_folder(options.index),
        cache_bytes=int(options.cache_gib * 2**30), requests_per_s=options.rate,
    )  # fmt: skip
    serve(options.index, config, options.model, options.device, options.dtype, open_browser=options.open_browser)


def serve(
    index: str, config: ServeConfig, model: str | None = None, device: str = "auto", dtype: str = "auto", *,
    open_browser: bool = False,
) -> None:  # fmt: skip
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
    with bind(config.host, config.port) as listener:  # a port in use is found before the model is loaded
        app = create_app(Task(library.uri, source, device, dtype, None), local_encoder(library.encoder), config)
        url = url_of(listener)
        entrance = f"{url}?token={config.token}" if config.token else url

        def started() -> None:
            shown = entrance if sys.stdout.isatty() else url  # logs are no place for a token
            echo(f"serving {index} at {shown} (Ctrl-C ends it)")
            if open_browser:
                webbrowser.open(entrance)

        run(app, config, listener, started)
