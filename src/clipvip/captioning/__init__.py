"""Auxiliary captions: an image captioning model says what the middle frame of every clip shows.

Source: CLIP-ViP, section 4.1 (the paper used OFA-Caption, at most 16 words).
"""

from clipvip.captioning.captioner import Captioner, CaptionerSettings, Described, Undescribed
from clipvip.captioning.endpoint import Endpoint
from clipvip.captioning.manifest import caption_manifest
from clipvip.captioning.models import CaptionModel, find_model
from clipvip.captioning.text import clean_caption

__all__ = [
    "CaptionModel", "Captioner", "CaptionerSettings", "Described", "Endpoint", "Undescribed", "caption_manifest",
    "clean_caption", "find_model",
]  # fmt: skip
