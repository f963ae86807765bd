"""Files and texts to unit-norm embeddings: `EncoderProtocol` and what implements it.

Names are imported on first use: the process that starts a `SubprocessEncoder` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipvip.encode._batching import BatchingEncoder
    from clipvip.encode._distributed import DistributedEncoder
    from clipvip.encode._protocol import EncoderProtocol, as_list, check_some_left
    from clipvip.encode._subprocess import SubprocessEncoder
    from clipvip.encode.encoder import Encoder, local_encoder
    from clipvip.encode.loading import load, pick_device

_MODULES = {
    "BatchingEncoder": "_batching",
    "DistributedEncoder": "_distributed",
    "Encoder": "encoder",
    "EncoderProtocol": "_protocol",
    "SubprocessEncoder": "_subprocess",
    "as_list": "_protocol",
    "check_some_left": "_protocol",
    "load": "loading",
    "local_encoder": "encoder",
    "pick_device": "loading",
}

__all__ = [
    "BatchingEncoder",
    "DistributedEncoder",
    "Encoder",
    "EncoderProtocol",
    "SubprocessEncoder",
    "as_list",
    "check_some_left",
    "load",
    "local_encoder",
    "pick_device",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'clipvip.encode' has no attribute {name!r}")
    return getattr(import_module(f"clipvip.encode.{_MODULES[name]}"), name)
