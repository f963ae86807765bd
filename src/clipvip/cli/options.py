"""Options that several verbs share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clipvip.jobs import Engine

Device = Annotated[str, typer.Option(help="auto (CUDA, then MPS, then CPU), cpu, cuda, ...")]
Dtype = Annotated[
    str,
    typer.Option(
        help="float32, bfloat16 (several times faster where the hardware has it), or auto (bfloat16 on CUDA)."
    ),
]
EngineName = Annotated[
    str, typer.Option("--engine", metavar="local|ray", help="Processes of this machine, or actors of a Ray cluster.")
]
Address = Annotated[
    str | None,
    typer.Option(metavar="auto|HOST:PORT", help="The Ray cluster (default: one started on this machine)."),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that hold the model (default: 1; with --engine ray: one a GPU, or a CPU)."),
]


def crew(engine: str, address: str | None, workers: int | None, *, wants_gpu: bool = True) -> tuple[Engine, int]:
    """What `--engine`, `--address` and `--workers` ask for, for `run_job`. Raises: UsageError."""
    from clipvip.errors import UsageError
    from clipvip.jobs import local

    if engine == "local":
        if address is not None:
            raise UsageError(f"--address {address}: goes with --engine ray only")
        return local, workers or 1
    if engine != "ray":
        raise UsageError(f"--engine {engine}: choose local or ray")
    try:
        from clipvip.jobs import on_ray
    except ModuleNotFoundError:
        raise UsageError('--engine ray needs Ray: install it with `pip install "clipvip[scale]"`') from None
    return on_ray.join(address, workers, wants_gpu=wants_gpu)
