"""transformers without its progress bars, for as long as we call it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from transformers.utils import logging

Hook = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

_lock = Lock()
_inside = 0  # blocks that threads are in; the last one to leave puts the hook back that the first one found
_found: Hook | None = None


@contextmanager
def without_bars() -> Iterator[None]:
    """In the block loading and saving draw no bars; what others have set is as before after it. Downloads still do."""
    global _inside, _found
    with _lock:
        if _inside == 0:
            _found = logging.set_tqdm_hook(_no_bar)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                logging.set_tqdm_hook(_found)


def _no_bar(factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> logging.EmptyTqdm:
    return logging.EmptyTqdm(*args, **options)
