"""The pool of processes, and results that threads compute ahead."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import helpers_jobs as jobs
from clipvip.errors import ClipVipError
from clipvip.jobs import MachineLost, Pool, Worker, WorkerDied, prefetch, prefetch_streams


def test_streams_are_merged_and_each_keeps_its_order() -> None:
    """Catches results that are lost, doubled or out of order, and items worked on one after the other."""
    meet = threading.Barrier(3)

    def numbers(start: int) -> Iterator[int]:
        meet.wait(timeout=30)  # passes only if three are under way
        yield from range(start, start + 20)

    found = list(prefetch_streams(numbers, [0, 100, 200], ahead=4, threads=3))
    assert sorted(found) == [*range(20), *range(100, 120), *range(200, 220)]
    for start in (0, 100, 200):
        assert [number for number in found if start <= number < start + 20] == list(range(start, start + 20))


def test_no_more_than_asked_for_are_made_early() -> None:
    """Catches a decoder that fills the memory while the model takes its time."""
    made: list[int] = []

    def numbers(_: int) -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    results = prefetch_streams(numbers, [0], ahead=4, threads=1)
    assert [next(results) for _ in range(10)] == list(range(10))
    assert len(made) <= 10 + 4 + 2
    results.close()


def test_an_error_ends_it_all() -> None:
    """Catches an error that is swallowed by its thread, and threads that wait for ever to hand on a result."""
    given_up: list[bool] = []

    def broken(item: int) -> Iterator[int]:
        if item == 3:
            raise ZeroDivisionError("a bug")
        yield from range(50)

    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(prefetch_streams(broken, range(6), ahead=2, threads=2, on_stop=lambda: given_up.append(True)))
    assert given_up == [True]
    assert list(prefetch_streams(broken, [], ahead=2, threads=2)) == []


def test_results_are_ordered_or_come_when_ready() -> None:
    """Catches results in the order in which they happen to be ready, and fast ones that wait for a slow one."""
    slow_may_end = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            slow_may_end.wait(timeout=30)
        return item

    unordered = prefetch(work, range(6), ahead=3, threads=2, ordered=False)
    assert sorted(next(unordered) for _ in range(5)) == [1, 2, 3, 4, 5]
    slow_may_end.set()
    assert list(unordered) == [0]
    assert list(prefetch(work, range(6), ahead=3, threads=2)) == list(range(6))


@pytest.mark.parametrize("ordered", [True, False])
def test_a_pool_maps_in_its_processes(ordered: bool) -> None:
    """Catches results lost or out of order, a pool that survives an error half closed, and errors of lost type."""
    with Pool([Worker(), Worker()]) as pool:
        results = list(pool.map(jobs.do, [f"word{i}" for i in range(9)], ordered=ordered))
        assert sorted(results) == [f"WORD{i}" for i in range(9)]
        assert not ordered or results == sorted(results)
        with pytest.raises(WorkerDied, match="SIGSEGV"):
            list(pool.map(jobs.do, ["a", jobs.CRASH, "b"], ordered=ordered))
        with pytest.raises(WorkerDied, match="closed"):
            list(pool.map(jobs.do, ["a"]))


def test_a_process_killed_by_others_is_tried_once_more(tmp_path: Path) -> None:
    """Catches a world that is not written because the kernel took one of many processes when memory was short."""
    with Pool([Worker()]) as pool:
        assert list(pool.map(jobs.die_the_first_time, [tmp_path / "trace"])) == ["second"]


class Lost:
    """A worker whose machine is lost at its second call."""

    def __init__(self) -> None:
        self.calls = 0

    def close(self) -> None:
        """Nothing runs."""

    def call(self) -> None:
        self.calls += 1
        if self.calls > 1:
            raise MachineLost("gone")


def use_until_all_are_lost(pool: Pool[Lost], errors: list[str]) -> None:
    """As a thread of the job runner does."""
    while True:
        try:
            with suppress(MachineLost), pool.checkout() as worker:
                worker.call()
        except ClipVipError as error:
            errors.append(str(error))
            return


def test_lost_machines_leave_the_pool_and_the_last_one_wakes_who_waits() -> None:
    """Catches B8: a count of workers that loses an update, so that threads wait for ever for a worker."""
    for _ in range(20):
        workers = [Lost() for _ in range(8)]
        errors: list[str] = []
        pool = Pool(workers)
        threads = [threading.Thread(target=use_until_all_are_lost, args=(pool, errors), daemon=True) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert len(errors) == 16
        assert all("all machines of this job are lost" in error for error in errors)
        assert [worker.calls for worker in workers] == [2] * 8


def test_a_pool_is_cancelled_while_its_processes_are_busy() -> None:
    """Catches a close that waits for processes that hang, or for threads that wait for a process."""
    pool = Pool([Worker()])
    failed: list[str] = []

    def work() -> None:
        try:
            with pool.checkout() as worker:
                worker.call(jobs.do, jobs.HANG, timeout_s=None)
        except WorkerDied as error:
            failed.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    while not multiprocessing.active_children():
        time.sleep(0.01)
    pool.close()
    for thread in threads:
        thread.join(timeout=30)
    assert len(failed) == 2
