"""Contrastive losses; the table of variants needs no torch, so the functions are imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipvip.losses.variants import VARIANTS, inputs_of

if TYPE_CHECKING:
    from clipvip.losses.contrastive import contrastive_loss, omnisource_loss

__all__ = ["VARIANTS", "contrastive_loss", "inputs_of", "omnisource_loss"]


def __getattr__(name: str) -> Any:
    if name in ("contrastive_loss", "omnisource_loss"):
        from clipvip.losses import contrastive

        return getattr(contrastive, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
