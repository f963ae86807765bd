"""Several processes as one run: who this one is, the rows of all of them (with gradient), the mean of their gradients.

Nothing else knows torch.distributed. Without a process group there is one process, and everything here is cheap.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from clipvip.errors import ClipVipError

T = TypeVar("T")
E = TypeVar("E", bound=ClipVipError)


def join() -> None:
    """Meet the other processes, if a launcher (torchrun) started several, and take a GPU of one's own if there are any.

    For inference: what is exchanged travels from host to host. A trainer has `training.launch`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("gloo")
    atexit.register(leave)


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which one this is, from 0: the main one."""
    return dist.get_rank() if world() > 1 else 0


def all_gather(local: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """The rows of all processes in rank order, the same everywhere; the backward pass sums over processes.

    local: [B, ...], B may differ among processes. sizes: the B of each, if known; else they are asked for, and a GPU
    has to be waited for.
    """
    if world() == 1:
        return local
    if sizes is None:
        sizes = exchange(len(local))
    return _AllGather.apply(local, tuple(sizes))


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.sizes = sizes
        padded = local.new_zeros(max(sizes), *local.shape[1:])  # the collective wants the same shape everywhere
        padded[: len(local)] = local
        pieces = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(pieces, padded)
        return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone()
        dist.all_reduce(total)
        start = sum(ctx.sizes[: rank()])
        return total[start : start + ctx.sizes[rank()]], None


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Make each gradient its mean over the processes: one collective over one flat buffer."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if world() == 1 or not grads:
        return
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= world()
    for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def exchange(thing: T) -> list[T]:
    """The `thing` of every process, in rank order; it travels pickled, from host to host, and no GPU is waited for."""
    if world() == 1:
        return [thing]
    things: list[Any] = [None] * world()
    dist.all_gather_object(things, thing, group=_hosts())
    return things


def together(function: Callable[[], T]) -> list[T]:
    """What `function` returns in each process, in rank order: on all of them. An error of one is raised by all."""
    return [_result(outcome) for outcome in exchange(_outcome(function))]


def on_main(function: Callable[[], T]) -> T:
    """What `function`, run by the main process, returns or raises: on all of them. The others wait for it."""
    outcomes = exchange(_outcome(function) if rank() == 0 else (None, None))
    return _result(outcomes[0])


def _outcome(function: Callable[[], T]) -> tuple[T | None, ClipVipError | OSError | None]:
    """What it returned, or the error that the other processes must know of, as they would wait for this one."""
    try:
        return function(), None
    except (ClipVipError, OSError) as error:
        if world() == 1:
            raise
        return None, error


def _result(outcome: tuple[T | None, ClipVipError | OSError | None]) -> T:
    result, error = outcome
    if error is not None:
        error.repeated = rank() > 0  # type: ignore[union-attr]  # read by the command line
        raise error
    return result  # type: ignore[return-value]  # function returned it


def said_once(error: E) -> E:
    """An error that all processes are about to raise: the main one alone tells it."""
    error.repeated = rank() > 0
    return error


def is_loss(error: RuntimeError) -> bool:
    """Whether this is what a collective says when another process is gone."""
    gone = ("by peer", "Broken pipe", "Timed out")
    return world() > 1 and (isinstance(error, dist.DistError) or any(words in str(error) for words in gone))


def leave() -> None:
    """Part from the other processes: for the end of the program."""
    if world() > 1:
        dist.destroy_process_group()


@cache
def _hosts() -> dist.ProcessGroup | None:
    """A group that needs no GPU; None: the one there is."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
