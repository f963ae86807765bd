"""One log line per kind of event and minute: a client that causes a thousand must not fill the disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

EVERY_S = 60.0
MAX_KINDS = 1000
LOGGERS = ("asyncio", "uvicorn.error", "clipvip")


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
