"""The same function in several real processes that see each other, as under a launcher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(world: int, function: Callable[..., Any], *args: Any, folder: Path) -> list[Any]:
    """What `function(*args)` returns in each of `world` processes (gloo), by rank. It must be a module's function."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_run, (world, function, args, folder), nprocs=world)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _run(rank: int, world: int, function: Callable[..., Any], args: tuple[Any, ...], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=world)
    result = function(*args)
    torch.save(result, folder / f"{rank}.pt")
    dist.barrier()  # a process that leaves early takes the others' connections with it
    dist.destroy_process_group()
