"""Work on manifests before training: what is in them, which clips cannot be used, parts of them to draw.

Names are imported on first use: only a check decodes, and needs more than the files.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "KINDS": "check",
    "CheckTask": "check_task",
    "check_manifest": "check",
    "default_work": "check",
    "manifest_stats": "stats",
    "write_subset": "subset",
}

if TYPE_CHECKING:
    from clipvip.data.tools.check import KINDS, check_manifest, default_work
    from clipvip.data.tools.check_task import CheckTask
    from clipvip.data.tools.stats import manifest_stats
    from clipvip.data.tools.subset import write_subset

__all__ = ["KINDS", "CheckTask", "check_manifest", "default_work", "manifest_stats", "write_subset"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
