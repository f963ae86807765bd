"""Model folders and hub ids to encoders."""

from __future__ import annotations

from pathlib import Path

import torch

from clipvip.encode.encoder import Encoder
from clipvip.errors import UsageError
from clipvip.model import ClipVipConfig, ClipVipCore, ClipVipProcessor
from clipvip.model.hub import own_folder, read_config
from clipvip.model.kernels import optimize_for_inference
from clipvip.model.loading import load_core


def load(source: str | Path, *, device: str = "auto", dtype: str = "auto", optimize: bool = True) -> Encoder:
    """An `Encoder` from a clipvip model folder, a CLIP folder, or a hub id of either, optimised for inference.

    device: "auto" (CUDA, then MPS, then CPU) or a torch device name.
    dtype: "auto" (bfloat16 on CUDA, else float32: embeddings of different CPUs agree to 1e-5), "float32", or "bfloat16"
    (on a CPU that computes in it several times faster). Plain CLIP weights load with aggregator="mean": search works
    with any CLIP.
    optimize: False starts sooner, for a handful of inputs, and encodes slower; bfloat16 is optimised all the same.
    Raises: CheckpointError if the folder is missing, incomplete or not such a model.
    """
    kind = pick_device(device)
    if dtype not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"dtype={dtype!r}: choose auto, float32 or bfloat16")
    if dtype == "auto" and kind.type != "cuda":
        dtype = "float32"
    model, processor = _load_model(source)
    encoder = Encoder(model.to(kind), processor, str(source))
    _ = encoder.fingerprint  # of the weights as stored: fusing and rounding must not make it another model
    if optimize or dtype != "float32":
        optimize_for_inference(model, dtype)
    else:
        model.eval().requires_grad_(False)
    return encoder


def _load_model(source: str | Path) -> tuple[ClipVipCore, ClipVipProcessor]:
    """Folders of clipvip are read without transformers, whose import takes longer than reading most models."""
    model: ClipVipCore
    if (folder := own_folder(source)) is not None:
        model, processor = load_core(folder), ClipVipProcessor.from_pretrained(folder)
    else:
        from clipvip.model.pretrained import ClipVipModel, load_strictly

        if isinstance(read_config(source), ClipVipConfig):
            model, processor = load_strictly(ClipVipModel, source), ClipVipProcessor.from_pretrained(source)
        else:
            model = ClipVipModel.from_clip(source, aggregator="mean", logit_scale=None)
            processor = ClipVipProcessor.from_clip(source)
    processor.check_fits(source, model.config)
    return model, processor


def pick_device(name: str) -> torch.device:
    """ "auto" (CUDA, then MPS, then CPU) or a device by its name. Raises: UsageError if this machine has none such."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device={name!r}: {reason}; choose auto, cpu, or a device this machine has") from None
    return device
