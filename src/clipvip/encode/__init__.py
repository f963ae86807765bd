"""Files and texts to unit-norm embeddings, by one `Encoder` or by what shares its work out.

Names are imported on first use: the process that starts a `SubprocessEncoder` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipvip.encode._batching import BatchingEncoder
    from clipvip.encode._distributed import DistributedEncoder
    from clipvip.encode._subprocess import SubprocessEncoder
    from clipvip.encode.encoder import Encoder, check_some_left
    from clipvip.encode.loading import load, pick_device

_MODULES = {
    "BatchingEncoder": "_batching",
    "DistributedEncoder": "_distributed",
    "Encoder": "encoder",
    "SubprocessEncoder": "_subprocess",
    "check_some_left": "encoder",
    "load": "loading",
    "pick_device": "loading",
}

__all__ = [
    "BatchingEncoder",
    "DistributedEncoder",
    "Encoder",
    "SubprocessEncoder",
    "check_some_left",
    "load",
    "pick_device",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'clipvip.encode' has no attribute {name!r}")
    return getattr(import_module(f"clipvip.encode.{_MODULES[name]}"), name)
