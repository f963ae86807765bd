"""The model, its configuration and its processor.

Names are imported on first use. `ClipVipConfig`, `ClipVipProcessor` and `ClipVipCore`, the model in plain PyTorch, do
not import transformers. `ClipVipModel` is the same model as a transformers model; once it has been imported (or
`clipvip.model.pretrained`), transformers' Auto classes know model folders of clipvip.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "AGGREGATORS": "configuration_clipvip",
    "ClipVipConfig": "configuration_clipvip",
    "MAX_LOGIT_SCALE": "modeling_clipvip",
    "NEW_PARAMETERS": "modeling_clipvip",
    "ClipVipCore": "modeling_clipvip",
    "ClipVipModel": "pretrained",
    "ClipVipOutput": "pretrained",
    "ClipVipProcessor": "processing_clipvip",
    "optimize_for_inference": "kernels",
    "optimize_for_training": "kernels",
    "train_clip_tokenizer": "tokenizer",
}

if TYPE_CHECKING:
    from clipvip.model.configuration_clipvip import AGGREGATORS, ClipVipConfig
    from clipvip.model.kernels import optimize_for_inference, optimize_for_training
    from clipvip.model.modeling_clipvip import MAX_LOGIT_SCALE, NEW_PARAMETERS, ClipVipCore
    from clipvip.model.pretrained import ClipVipModel, ClipVipOutput
    from clipvip.model.processing_clipvip import ClipVipProcessor
    from clipvip.model.tokenizer import train_clip_tokenizer

__all__ = [
    "AGGREGATORS",
    "MAX_LOGIT_SCALE",
    "NEW_PARAMETERS",
    "ClipVipConfig",
    "ClipVipCore",
    "ClipVipModel",
    "ClipVipOutput",
    "ClipVipProcessor",
    "optimize_for_inference",
    "optimize_for_training",
    "train_clip_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
