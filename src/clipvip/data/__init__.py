"""Manifests, the dataset that turns clips into training samples, and the small synthetic world.

Names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {"read_manifest": "manifest", "write_manifest": "manifest"}

if TYPE_CHECKING:
    from clipvip.data.manifest import read_manifest, write_manifest

__all__ = ["read_manifest", "write_manifest"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
