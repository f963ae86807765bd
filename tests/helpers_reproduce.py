"""Stand-ins for the files that published runs need: their layouts, with tiny real videos and a tiny real checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from clipvip.checkpoints import to_released
from clipvip.model import ClipVipConfig, ClipVipModel
from clipvip.model.tokenizer import train_clip_tokenizer
from helpers_import import write
from helpers_video import write_video

SHORT = ("train.epochs=null", "train.steps=2", "train.batch_size=4", "data.num_workers=0", "train.trackers=[]")
"""Overrides under which a fine-tuning recipe is done at once."""


def write_msrvtt(root: Path, num_train: int = 6, num_test: int = 4) -> Path:
    """MSR-VTT: two sentences a video in the json, the list of training videos, the pairs of the test."""
    ids = [f"video{i}" for i in range(num_train + num_test)]
    _write_videos(root / "videos", [f"{id_}.mp4" for id_ in ids])
    sentences = [{"video_id": id_, "caption": f"{id_} {word}"} for id_ in ids for word in ("moves", "stops")]
    write(root / "MSRVTT_data.json", {"videos": [{"video_id": id_} for id_ in ids], "sentences": sentences})
    write(root / "MSRVTT_train.9k.csv", "\n".join(["video_id", *ids[:num_train]]) + "\n")
    pairs = [f"ret{i},msr{i},{id_},{id_} moves" for i, id_ in enumerate(ids[num_train:])]
    write(root / "MSRVTT_JSFUSION_test.csv", "\n".join(["key,vid_key,video_id,sentence", *pairs]) + "\n")
    return root


def write_didemo(root: Path) -> Path:
    """DiDeMo: two moments a video, in three files."""
    for split, count in (("train", 5), ("val", 3), ("test", 3)):
        names = [f"{split}{i}.mov" for i in range(count)]
        _write_videos(root / "videos", names)
        moments = [
            {"description": f"{name} {word}.", "times": [[0, 0]], "video": name, "annotation_id": 0}
            for name in names
            for word in ("moves", "stops")
        ]
        write(root / f"{split}_data.json", moments)
    return root


def write_lsmdc(root: Path) -> Path:
    """LSMDC: one line a clip, videos in folders by movie."""
    files = {
        "LSMDC16_annos_training.csv": 5,
        "LSMDC16_annos_val.csv": 3,
        "LSMDC16_challenge_1000_publictect.csv": 3,
    }
    for movie, (name, count) in enumerate(files.items()):
        ids = [f"000{movie}_Film_00.00.0{i}.000-00.00.0{i}.900" for i in range(count)]
        _write_videos(root / "videos" / f"000{movie}_Film", [f"{id_}.avi" for id_ in ids])
        write(root / name, "".join(f"{id_}\t0\t1\t0\t1\tSOMEONE moves {i}.\n" for i, id_ in enumerate(ids)))
    return root


def write_activitynet(root: Path) -> Path:
    """ActivityNet Captions: two sentences a video."""
    for name, count in (("train", 5), ("val_1", 3)):
        ids = [f"v_{name}{i}" for i in range(count)]
        _write_videos(root / "videos", [f"{id_}.mp4" for id_ in ids])
        entry = {"duration": 1.2, "timestamps": [[0, 0.6], [0.6, 1.2]]}
        write(root / f"{name}.json", {id_: {**entry, "sentences": [f"{id_} moves.", " It stops."]} for id_ in ids})
    return root


def write_checkpoint(path: Path, tokenizer_folder: Path) -> Path:
    """A checkpoint in the released layout, of ViT-B/32's widths (so its heads are known) with one block a tower."""
    texts = [f"video{i} moves and stops" for i in range(10)]
    tokenizer = train_clip_tokenizer(texts)
    tokenizer.save_pretrained(tokenizer_folder)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    block = {"intermediate_size": 64, "num_hidden_layers": 1}
    config = ClipVipConfig(
        text_config={**block, **special, "hidden_size": 512, "num_attention_heads": 8, "vocab_size": len(tokenizer)},
        vision_config={**block, "hidden_size": 768, "num_attention_heads": 12, "image_size": 32, "patch_size": 16},
        projection_dim=32,
        num_frames=12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(to_released(ClipVipModel(config)), path)
    return path


def _write_videos(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        codec = "mpeg4" if name.endswith(".avi") else "libx264"
        write_video(folder / name, 12 + i, width=48, height=48, grain=8, codec=codec)
