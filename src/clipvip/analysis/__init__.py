"""Analyses of models and texts, and the figures that go with them.

Names are imported on first use: figures need no torch, and texts no matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_NAMES = {
    "gap": ("Gap", "measure_gap", "write_gap"),
    "plots": ("FULL_IN", "HALF_IN", "drawing", "look"),
    "probe": ("Probe", "probe_time", "remarks", "write_probe"),
    "text_sources": ("open_sources",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

if TYPE_CHECKING:
    from clipvip.analysis.gap import Gap, measure_gap, write_gap
    from clipvip.analysis.plots import FULL_IN, HALF_IN, drawing, look
    from clipvip.analysis.probe import Probe, probe_time, remarks, write_probe
    from clipvip.analysis.text_sources import open_sources

__all__ = [
    "FULL_IN", "HALF_IN", "Gap", "Probe", "drawing", "look", "measure_gap", "open_sources", "probe_time", "remarks",
    "write_gap", "write_probe",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
