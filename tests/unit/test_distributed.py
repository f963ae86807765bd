"""What the processes of a run hand each other, in two real processes; whole steps over processes: tests/parity."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipvip import distributed
from helpers_ranks import in_processes

SIZES = (1, 3)
"""Rows of each process; rank 0's are padded on their way, in front of rank 1's."""


def rows_of(rank: int) -> Tensor:
    """Different numbers everywhere, none of them 0."""
    return torch.arange(rank, rank + SIZES[rank])[:, None] * torch.tensor([1.0, 10.0]) + 1.0


def gathered() -> list[tuple[Tensor, Tensor | None]]:
    """The rows of all processes and the gradient of this one's if process r weighs row i by (r + 1) * (i + 1).

    Twice: with the sizes known, and without.
    """
    results = []
    for sizes in (SIZES, None):
        local = rows_of(distributed.rank()).requires_grad_()
        everything = distributed.all_gather(local, sizes)
        weights = (distributed.rank() + 1.0) * torch.arange(1.0, len(everything) + 1)
        (weights[:, None] * everything).sum().backward()
        results.append((everything.detach(), local.grad))
    return results


def test_rows_of_all_in_rank_order_and_their_gradients_summed(tmp_path: Path) -> None:
    """Catches padding handed on as rows, another process's gradient, and that of one process alone."""
    whole = torch.tensor([[1.0, 1.0], [2.0, 11.0], [3.0, 21.0], [4.0, 31.0]])
    by_row = (1 + 2) * torch.arange(1.0, 5.0)[:, None].expand(-1, 2)
    for results, grad in zip(in_processes(2, gathered, folder=tmp_path), by_row.split(SIZES), strict=True):
        for everything, ours in results:
            torch.testing.assert_close(everything, whole, rtol=0, atol=0)
            torch.testing.assert_close(ours, grad, rtol=0, atol=0)


def averaged() -> list[Tensor | None]:
    """Gradients of a matrix, a scalar, a parameter without one, and a vector; rank 1's are three times rank 0's."""
    factor = 2.0 * distributed.rank() + 1.0
    parameters = [torch.zeros(shape, requires_grad=True) for shape in ((2, 3), (), (4,), (5,))]
    for number, parameter in enumerate(parameters):
        if number != 2:
            parameter.grad = factor * torch.arange(1.0, parameter.numel() + 1).view_as(parameter) * 10.0**number
    distributed.average_gradients(parameters)
    return [parameter.grad for parameter in parameters]


def test_every_gradient_becomes_the_mean(tmp_path: Path) -> None:
    """Catches a sum in place of the mean, gradients that change places, and a scalar (the temperature) left out."""
    for matrix, scalar, none, vector in in_processes(2, averaged, folder=tmp_path):
        torch.testing.assert_close(matrix, 2 * torch.arange(1.0, 7.0).view(2, 3))
        torch.testing.assert_close(scalar, torch.tensor(20.0))
        assert none is None
        torch.testing.assert_close(vector, 2000 * torch.arange(1.0, 6.0))


def failing(way: str) -> tuple[str, bool]:
    """What each process raises if one of them finds no file."""
    failing_rank = 0 if way == "on_main" else 1

    def read() -> str:
        if distributed.rank() == failing_rank:
            return Path("nowhere").read_text()
        return "fine"

    try:
        getattr(distributed, way)(read)
    except FileNotFoundError as error:
        return str(error.filename), getattr(error, "repeated", False)
    return "no error", False


@pytest.mark.parametrize("way", ["together", "on_main"])
def test_a_file_that_one_process_lacks_ends_all(way: str, tmp_path: Path) -> None:
    """Catches processes that wait for one that has ended, and an error that each of them prints."""
    assert in_processes(2, failing, way, folder=tmp_path) == [("nowhere", False), ("nowhere", True)]


def test_one_process_alone_needs_no_group() -> None:
    """Catches a run without a launcher that waits for others, or whose rows lose their graph."""
    rows = torch.ones(2, 3, requires_grad=True)
    assert distributed.all_gather(rows) is rows
    assert (distributed.rank(), distributed.world()) == (0, 1)
    assert distributed.exchange("mine") == ["mine"]
