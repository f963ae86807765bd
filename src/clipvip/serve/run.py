"""Run the application with uvicorn: sockets, signals, and limits that hold before a request is there.

uvicorn answers whatever comes; a client that opens connections and sends nothing, or reads nothing, would keep them for
ever, and a server without free file descriptors serves nobody. Nor may a client fill the disk with log lines.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from clipvip.errors import ClipVipError, UsageError
from clipvip.serve.config import LOOPBACK, ServeConfig

if sys.platform != "win32":
    import resource

logger = logging.getLogger(__name__)

HEAD_S = 10.0
"""From the connection, or the first byte of a request, to the end of its headers."""
STALL_S = 600.0
"""A client may take nothing of an answer for so long: players stop reading while they are paused."""
MOST = 1000
FEWEST = 16
DESCRIPTORS = 4
"""For each connection: its own, two for the file that is sent on it, and one in reserve for everything else."""
ADDRESS_SHARE = 0.5
"""Of all connections, for one address."""
_BODY = b'{"error":{"code":"busy","message":"too many connections at once; try again"}}'
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b"X-Content-Type-Options: nosniff\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)
GRACE_S = 3
"""Requests under way may take so long to end when the server does."""
EVERY_S = 60.0
MAX_KINDS = 1000
LOGGERS = ("asyncio", "uvicorn.error", "clipvip")


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


def connection_limit() -> int:
    """How many connections this process can hold, by the file descriptors that it may still open."""
    if sys.platform == "win32":
        return MOST
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    return max(FEWEST, min(MOST, (allowed - len(os.listdir(folder))) // DESCRIPTORS))


class Connections:
    """Those that are open, in all and by address.

    exempt: addresses that may have all of them: a proxy's, behind which are many clients.
    """

    def __init__(self, limit: int, exempt: frozenset[str] = frozenset()):
        self.limit, self._exempt = limit, exempt
        self._by_address: Counter[str] = Counter()

    def admit(self, address: str) -> bool:
        """Count one more, if it may be."""
        most = self.limit if address in self._exempt else max(FEWEST // 2, int(self.limit * ADDRESS_SHARE))
        if self._by_address.total() >= self.limit or self._by_address[address] >= most:
            return False
        self._by_address[address] += 1
        return True

    def release(self, address: str) -> None:
        """One less."""
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with limits."""

    def __init__(self, open_connections: Connections, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._open = open_connections
        self._address: str | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse it if there are too many."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if self._open.admit(address):
            self._address = address
            self._start("head", HEAD_S)
        else:
            logger.warning("a connection is refused: there are too many (%d in all)", self._open.limit)
            transport.write(BUSY)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Its place is free again."""
        for name in list(self._timers):
            self._stop(name)
        if self._address is not None:
            self._open.release(self._address)
            self._address = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Whatever has begun has to be a whole head soon."""
        if self._address is None:
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop("head")
        elif "head" not in self._timers and not self.transport.is_closing():
            self._start("head", HEAD_S)

    def pause_writing(self) -> None:
        """The client takes nothing for now."""
        super().pause_writing()
        self._start("stall", STALL_S)

    def resume_writing(self) -> None:
        """It takes some again."""
        super().resume_writing()
        self._stop("stall")

    def _start(self, name: str, seconds: float) -> None:
        self._stop(name)
        self._timers[name] = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


class OncePerMinute(logging.Filter):
    """Lets the first record of a kind pass, then one each minute, with the number of those between.

    A kind is a logger, a level and the first line of a message before its values are put in.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        if getattr(record, "counted", False):  # by another handler's filter
            return True
        kind = record.name, record.levelno, str(record.msg).partition("\n")[0][:80]
        while len(self._seen) > MAX_KINDS:
            self._seen.pop(next(iter(self._seen)))
        last_s, num_held = self._seen.get(kind, (-EVERY_S, 0))
        if self._clock() - last_s < EVERY_S:
            self._seen[kind] = last_s, num_held + 1
            return False
        self._seen[kind] = self._clock(), 0
        if num_held:
            record.msg = f"{record.getMessage()} ({num_held} more like this since the last line)"
            record.args = None
        record.counted = True
        return True


def limit_logs() -> None:
    """From now on, for what the server and its libraries log."""
    limit = OncePerMinute()
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for place in (logger, *logger.handlers):
            place.addFilter(limit)
