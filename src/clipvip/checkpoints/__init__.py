"""Checkpoints of other code to our models, and back to the released layout; every key is accounted for."""

from clipvip.checkpoints.convert import Converted, Report, convert_checkpoint, read_checkpoint, to_released

__all__ = ["Converted", "Report", "convert_checkpoint", "read_checkpoint", "to_released"]
