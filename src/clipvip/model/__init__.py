"""The model, its configuration and its processor; importing this registers them with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from clipvip.model.clipvip import MAX_LOGIT_SCALE, NEW_PARAMETERS, ClipVipModel, ClipVipOutput
from clipvip.model.config import AGGREGATORS, ClipVipConfig
from clipvip.model.processor import ClipVipProcessor

AutoConfig.register(ClipVipConfig.model_type, ClipVipConfig, exist_ok=True)
AutoModel.register(ClipVipConfig, ClipVipModel, exist_ok=True)
AutoProcessor.register(ClipVipConfig, ClipVipProcessor, exist_ok=True)

__all__ = [
    "AGGREGATORS",
    "MAX_LOGIT_SCALE",
    "NEW_PARAMETERS",
    "ClipVipConfig",
    "ClipVipModel",
    "ClipVipOutput",
    "ClipVipProcessor",
]
