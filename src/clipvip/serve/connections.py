"""Limits that hold before a request is there: how many connections, and how long each may take.

uvicorn answers whatever comes; a client that opens connections and says nothing, or takes nothing, would keep them for
ever, and a server without free file descriptors serves nobody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

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
