"""Results computed by threads before they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, Full, Queue
from threading import Event, Lock
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

LOOK_UP_S = 0.1
"""How long a thread waits for another one before it looks whether there is still something to wait for."""


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


def merge_ahead(
    function: Callable[[Item], Iterable[Result]],
    items: Iterable[Item],
    *,
    ahead: int,
    threads: int,
    give_up: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Results of all items as they come, those of one item in order: `threads` items at a time, `ahead` results early.

    give_up: as in `run_ahead`.
    """
    ready: Queue[Result] = Queue(ahead)
    waiting, lock, stopped = iter(items), Lock(), Event()

    def work() -> None:
        while not stopped.is_set():
            with lock:
                try:
                    item = next(waiting)
                except StopIteration:
                    return
            for result in function(item):
                hand_on(result)

    def hand_on(result: Result) -> None:
        while not stopped.is_set():
            try:
                return ready.put(result, timeout=LOOK_UP_S)
            except Full:
                continue

    with ThreadPoolExecutor(threads) as pool:
        try:
            running = [pool.submit(work) for _ in range(threads)]
            while True:
                done = [future for future in running if future.done()]
                for future in done:
                    future.result()
                over = len(done) == threads  # before a look at the queue: what is in it now is all there will be
                try:
                    yield ready.get(block=not over, timeout=LOOK_UP_S)
                except Empty:
                    if over:
                        return
        except BaseException:
            stopped.set()
            give_up()
            raise
