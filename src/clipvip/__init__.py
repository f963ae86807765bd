"""clipvip: CLIP-ViP text-to-video retrieval. Train it, measure it, search your own videos with it.

Names are imported on first use, so `import clipvip` loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Encoder": "clipvip.encode",
    "load": "clipvip.encode",
    "ClipVipConfig": "clipvip.model",
    "ClipVipModel": "clipvip.model",
    "ClipVipProcessor": "clipvip.model",
}

if TYPE_CHECKING:
    from clipvip.encode import Encoder, load
    from clipvip.model import ClipVipConfig, ClipVipModel, ClipVipProcessor

__all__ = ["ClipVipConfig", "ClipVipModel", "ClipVipProcessor", "Encoder", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clipvip' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
