"""A very small world and a recipe that trains on it in seconds."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from clipvip.data.manifest import read_manifest, write_manifest
from clipvip.data.synthetic import WorldSize, make_world
from clipvip.model.tokenizer import train_clip_tokenizer
from clipvip.records import Clip
from helpers_video import write_video

TINY = WorldSize(images=24, val_images=8, pretrain=24, train=40, val=8, test=12)
RECIPE = """
about: a tiny model from scratch
model:
  num_frames: 4
  max_text_tokens: 32
  architecture:
    projection_dim: 16
    text_config: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2,
                  max_position_embeddings: 32}
    vision_config: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
                    image_size: 48, patch_size: 16}
data: {num_workers: 0}
optim: {lr: 1.0e-3, new_lr_factor: 10}
train: {batch_size: 8, steps: 40, precision: float32, log_every: 1, eval_every: 10, save_every: 7}
"""


def write_tiny_world(folder: Path) -> Path:
    """Media, manifests and a tokeniser."""
    make_world(folder, seed=5, size=TINY)
    texts = [text for clip in read_manifest(folder / "retrieval.jsonl") for text in clip.captions]
    train_clip_tokenizer(texts).save_pretrained(folder / "tokenizer")
    return folder


def write_few_clips(folder: Path, count: int = 20) -> Path:
    """As `write_tiny_world`, in a tenth of the time: noise to train on, videos and images, and three to validate on."""
    clips = [
        Clip(str(i), video=write_video(folder / f"{i}.mp4", 6, width=48), captions=(f"clip {i}",), split="train")
        for i in range(count)
    ]
    validation = [Clip(f"val{i}", video=folder / f"{i}.mp4", captions=(f"clip {i}",), split="val") for i in range(3)]
    write_manifest(folder / "retrieval.jsonl", [*clips, *validation])
    for i in range(count):
        Image.new("RGB", (48, 48), (i, 0, 0)).save(folder / f"{i}.png")
    images = [Clip(f"i{i}", image=folder / f"{i}.png", captions=(f"image {i}",), split="train") for i in range(count)]
    write_manifest(folder / "images.jsonl", images)
    texts = [text for clip in (*clips, *images) for text in clip.captions]
    train_clip_tokenizer(texts).save_pretrained(folder / "tokenizer")
    return folder


def write_recipe(path: Path) -> Path:
    """The tiny recipe as a file."""
    path.write_text(RECIPE)
    return path


def overrides(world: Path) -> list[str]:
    """What the recipe leaves open: data and tokeniser."""
    manifest = world / "retrieval.jsonl"
    return [f"data.train={manifest}", f"data.val={manifest}", f"model.tokenizer={world / 'tokenizer'}"]
