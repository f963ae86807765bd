"""The recorded outputs of the released code (tests/data), and our model carrying the recorded weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from clipvip.model import ClipVipConfig, ClipVipModel

DATA = Path(__file__).parent / "data"


@cache
def golden() -> dict[str, Any]:
    """Scalars, tables and tolerances."""
    return json.loads((DATA / "golden.json").read_text())


@cache
def tensors(name: str = "io") -> dict[str, Tensor]:
    """Recorded tensors of io, state_dict or joint_grads."""
    return load_file(DATA / f"{name}.safetensors")


def our_name(released: str) -> str:
    """A parameter's name in our state dict."""
    return released.removeprefix("clipmodel.").replace("added_cls", "proxy_tokens")


def golden_config(**changes: Any) -> ClipVipConfig:
    """The recorded model's configuration; its texts start with id 98 and end with id 99."""
    clip, vip = golden()["config"], golden()["vip"]
    options: dict[str, Any] = {
        "text_config": {**clip["text_config"], "bos_token_id": 98, "eos_token_id": 99, "pad_token_id": 99},
        "vision_config": clip["vision_config"],
        "projection_dim": clip["projection_dim"],
        "num_frames": vip["temporal_size"],
        "num_proxies": 1 + vip["add_cls_num"],
        "logit_scale_init_value": vip["logit_scale_init_value"],
    }
    return ClipVipConfig(**{**options, **changes})


def golden_state() -> dict[str, Tensor]:
    """The recorded weights under our names and shapes."""
    state = {our_name(name): value for name, value in tensors("state_dict").items() if "position_ids" not in name}
    temporal = "vision_model.embeddings.temporal_embedding"
    return {**state, temporal: state[temporal][0]}


def golden_model(dtype: torch.dtype = torch.float64) -> ClipVipModel:
    """Our model with the recorded weights; every key must fit."""
    model = ClipVipModel(golden_config())
    model.load_state_dict(golden_state(), strict=True)
    return model.to(dtype)
