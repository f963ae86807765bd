"""The one inference path: files and texts to unit-norm embeddings."""

from clipvip.encode.encoder import Encoder, check_some_left
from clipvip.encode.loading import load, pick_device
from clipvip.encode.shared import SharedEncoder

__all__ = ["Encoder", "SharedEncoder", "check_some_left", "load", "pick_device"]
