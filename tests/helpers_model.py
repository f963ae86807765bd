"""A tiny random model with a tokeniser of its own, for tests that need some model and not a good one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTokenizer

from clipvip.model import ClipVipConfig, ClipVipModel, ClipVipProcessor
from clipvip.model.tokenizer import train_clip_tokenizer

TEXTS = ["a red circle grows on the grass", "the blue square jumps at night"]


def tiny_config(tokenizer: CLIPTokenizer, max_text_tokens: int, **fields: Any) -> ClipVipConfig:
    """A model of one layer for this tokeniser (T = 4, 32 x 32 pixels); fields: the others of `ClipVipConfig`."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return ClipVipConfig(
        text_config={**sizes, **special, "max_position_embeddings": max_text_tokens},
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        num_frames=4,
        **fields,
    )


def write_model(folder: Path, seed: int = 0, aggregator: str = "vip") -> Path:
    """Write a `ClipVipModel` (E = 16, T = 4, 32 x 32 pixels) with its processor."""
    tokenizer = train_clip_tokenizer(TEXTS)
    config = tiny_config(tokenizer, 32, projection_dim=16, aggregator=aggregator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ClipVipModel(config).save_pretrained(folder)
    ClipVipProcessor(tokenizer, num_frames=4, image_size=32, max_text_tokens=32).save_pretrained(folder)
    return folder
