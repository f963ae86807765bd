"""Results in order, computed by threads before they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    ahead: int,
    threads: int | None = None,
    give_up: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Results in order, computed by threads up to `ahead` items early: decoding overlaps with the model.

    threads: how many; None: Python's default. give_up: called when the results are no longer wanted, before the threads
    are waited for.
    """
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BaseException:
            give_up()
            raise
        finally:
            for future in pending:
                future.cancel()
