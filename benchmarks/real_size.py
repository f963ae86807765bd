"""Real sizes once through everything: convert, train, save, load, encode. Random weights; a Markdown table of its cost.

Each size runs in a process of its own and needs about 5 GB of memory and 2 GB of space for temporary files (TMPDIR).
What comes out is checked: conversion and saving keep every weight, embeddings are finite and of unit norm.

    python benchmarks/real_size.py [--models b32 b16] [--threads 1]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from measure import describe, forget_peak, in_own_process, resident_mib, table
from peers import build, config_of, random_pixels
from torch import Tensor

from clipvip.checkpoints import convert_checkpoint, to_released
from clipvip.losses import contrastive_loss
from clipvip.model import ClipVipModel

REAL = ["b32", "b16"]
BATCH, TEXTS, TOKENS = 2, 8, 12
T = TypeVar("T")


class Stages:
    """Rows of the table: what ran, its seconds, the process's peak memory meanwhile."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []

    def run(self, name: str, work: Callable[..., T], *arguments: object) -> T:
        """Do a stage's work and note what it took."""
        forget_peak()
        start = time.perf_counter()
        result = work(*arguments)
        self.rows.append([name, f"{time.perf_counter() - start:.2f}", f"{resident_mib('VmHWM'):.0f}"])
        return result


def through_everything(size: str, threads: int) -> list[list[str]]:
    """The rows of a size. Raises: AssertionError if a stage lost weights or made something else than embeddings."""
    torch.set_num_threads(threads)
    stages, config = Stages(), config_of(size)
    pixels = random_pixels(config, BATCH, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        released, saved = Path(folder, "released.pt"), Path(folder, "model")
        model = stages.run("build, random weights", build, config)
        ids = _random_ids(model)
        stages.run("write the released layout (.pt)", write_released, model, released)
        converted = stages.run("convert it", convert_checkpoint, released)
        _check_same_weights(model, converted)
        del model
        stages.run(f"training step, batch {BATCH}, bf16 autocast", training_step, converted, pixels, ids)
        stages.run("save_pretrained", converted.save_pretrained, saved)
        loaded = stages.run("from_pretrained", ClipVipModel.from_pretrained, saved)
        _check_same_weights(converted, loaded)
        del converted
        stages.run("optimize_for_inference", loaded.optimize_for_inference)
        dtype = str(loaded.optimized_for).removeprefix("torch.")
        with torch.inference_mode():
            videos = f"encode {BATCH} clips of {config.num_frames} frames, {dtype}"
            _check_embeddings(stages.run(videos, loaded.encode_video, pixels))
            texts = f"encode {TEXTS} texts of {TOKENS} tokens, {dtype}"
            _check_embeddings(stages.run(texts, loaded.encode_text, ids))
    return [[size, *row] for row in stages.rows]


def write_released(model: ClipVipModel, path: Path) -> None:
    """A file as the released code writes it."""
    torch.save(to_released(model), path)


def training_step(model: ClipVipModel, pixels: Tensor, ids: Tensor) -> None:
    """Forward, backward and a first step of AdamW, as fine-tuning does it."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.98), weight_decay=0.2, fused=True)
    with torch.autocast("cpu", torch.bfloat16):
        video, text = model.encode_video(pixels), model.encode_text(ids[: len(pixels)])
    loss = contrastive_loss(video, text, model.logit_scale)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss), loss


def _random_ids(model: ClipVipModel) -> Tensor:
    text = model.config.text
    ids = torch.randint(text.bos_token_id, (TEXTS, TOKENS), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, -1] = text.bos_token_id, text.eos_token_id
    return ids


def _check_same_weights(before: ClipVipModel, after: ClipVipModel) -> None:
    ours, theirs = before.state_dict(), after.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def _check_embeddings(embeds: Tensor) -> None:
    assert torch.allclose(embeds.norm(dim=-1), torch.ones(len(embeds)), atol=1e-4), embeds


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=REAL, default=REAL)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(describe(torch.device("cpu"), "each stage once"), flush=True)
    rows: list[list[str]] = []
    for size in options.models:
        rows += in_own_process(through_everything, size, options.threads)
    caption = "Peak memory is the whole process's (its resident set), Python and torch included."
    table("Real sizes, once through everything", ["model", "stage", "s", "peak MiB"], rows, caption)


if __name__ == "__main__":
    main()
