"""Analyses of models and texts.

Names are imported on first use: figures need no torch, and texts no matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "FULL_IN": "plots",
    "HALF_IN": "plots",
    "drawing": "plots",
    "look": "plots",
    "measure_gap": "gap",
    "open_sources": "text_sources",
}

if TYPE_CHECKING:
    from clipvip.analysis.gap import measure_gap
    from clipvip.analysis.plots import FULL_IN, HALF_IN, drawing, look
    from clipvip.analysis.text_sources import open_sources

__all__ = ["FULL_IN", "HALF_IN", "drawing", "look", "measure_gap", "open_sources"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
