"""Contrastive objectives. They take features and return a scalar; models and processes are the caller's business."""

from clipvip.losses.contrastive import contrastive_loss
from clipvip.losses.omnisource import VARIANTS, omnisource_loss

__all__ = ["VARIANTS", "contrastive_loss", "omnisource_loss"]
