"""Results of several items at once, as they come."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from clipvip.jobs.ahead import merge_ahead


def test_streams_are_merged_and_each_keeps_its_order() -> None:
    """Catches results that are lost, doubled or out of order, and items worked on one after the other."""
    meet = threading.Barrier(3)

    def numbers(start: int) -> Iterator[int]:
        meet.wait(timeout=30)  # passes only if three are under way
        yield from range(start, start + 20)

    found = list(merge_ahead(numbers, [0, 100, 200], ahead=4, threads=3))
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

    results = merge_ahead(numbers, [0], ahead=4, threads=1)
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
        list(merge_ahead(broken, range(6), ahead=2, threads=2, give_up=lambda: given_up.append(True)))
    assert given_up == [True]
    assert list(merge_ahead(broken, [], ahead=2, threads=2)) == []
