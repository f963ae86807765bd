"""Signals that ask a run to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Gives a list that SIGINT and SIGTERM are added to, instead of striking in the middle of a step.

    A second one strikes at once. Ignored signals stay ignored; outside the main thread nothing changes.
    """
    noted: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in ASKING}

    def note(number: int, _: FrameType | None) -> None:
        if noted:
            restore()
            signal.raise_signal(number)
        noted.append(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()
