"""Run the application with uvicorn: sockets, signals, and what is told on the terminal."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from clipvip.errors import ClipVipError, UsageError
from clipvip.serve.config import LOOPBACK, ServeConfig
from clipvip.serve.connections import Connections, LimitedProtocol, connection_limit
from clipvip.serve.log_limits import limit_logs

GRACE_S = 3
"""Requests under way may take so long to end when the server does."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, on a free port for 0. Raises: ClipVipError if another has it; UsageError for no address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UsageError(f"--host {host}: no address of this machine") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)  # now, so that who reads the address can connect
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ClipVipError(f"port {port} of {host} is in use: choose another, or --port 0 for a free one") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"--host {host}: no address of this machine") from None
        if error.errno == errno.EACCES:
            raise ClipVipError(f"port {port} of {host}: not allowed; choose one above 1023") from None
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def run(app: FastAPI, config: ServeConfig, listener: socket.socket, on_started: Callable[[], None]) -> None:
    """Serve until a signal comes; requests under way may finish. The signal is raised again at the end."""
    proxies = frozenset(LOOPBACK) if config.names else frozenset()
    open_connections = Connections(connection_limit(), exempt=proxies)
    settings = uvicorn.Config(
        app,
        http=cast(Any, partial(LimitedProtocol, open_connections)),
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=GRACE_S,
        forwarded_allow_ips="127.0.0.1,::1" if config.names else "",
    )
    limit_logs()
    _Server(settings, on_started, app.state.services.closing).run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, settings: uvicorn.Config, on_started: Callable[[], None], closing: threading.Event):
        super().__init__(settings)
        self._on_started = on_started
        self._closing = closing

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._closing.set()  # event streams would go on for ever
        super().handle_exit(sig, frame)
