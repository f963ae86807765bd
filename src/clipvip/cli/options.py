"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto (CUDA, then MPS, then CPU), cpu, cuda, ...")]
Dtype = Annotated[
    str,
    typer.Option(
        help="float32, bfloat16 (several times faster where the hardware has it), or auto (bfloat16 on CUDA)."
    ),
]
