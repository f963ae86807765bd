"""Videos of plain colours, and a model that has really learnt what the colours are called: in seconds, by contrast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch

from clipvip.losses import contrastive_loss
from clipvip.model import ClipVipModel, ClipVipProcessor
from clipvip.model.tokenizer import train_clip_tokenizer
from helpers_model import tiny_config

RGB = {
    "red": (205, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 75, 205),
    "yellow": (225, 205, 40),
    "purple": (140, 50, 165),
    "white": (238, 236, 230),
}
FPS = 10
FORMS = ("{}", "a {} clip", "something {}", "the screen turns {}")
STEPS = 80


def write_color_video(path: Path, parts: Sequence[tuple[str, float]], *, codec: str = "libx264") -> Path:
    """One colour after another, each for some seconds, with a square that walks through the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [name for name, seconds in parts for _ in range(round(seconds * FPS))]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.gop_size = FPS
        for i, name in enumerate(names):
            frame = av.VideoFrame.from_ndarray(color_picture(name, i), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def color_picture(name: str, i: int = 0) -> np.ndarray:
    """A frame of such a video, uint8 [120, 160, 3]."""
    picture = np.broadcast_to(np.array(RGB[name], np.uint8), (120, 160, 3)).copy()
    left = 10 + i * 4 % 125
    picture[50:70, left : left + 20] = 128
    return picture


def write_color_model(folder: Path) -> Path:
    """A small `ClipVipModel` (E = 32, T = 4) that knows the names of the colours, with its processor."""
    tokenizer = train_clip_tokenizer([form.format(name) for name in RGB for form in FORMS])
    config = tiny_config(tokenizer, 16, projection_dim=32, logit_scale_init_value=2.5)  # warm enough for wide margins
    processor = ClipVipProcessor(tokenizer, num_frames=4, image_size=32, max_text_tokens=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ClipVipModel(config)
        _learn(model, processor)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _learn(model: ClipVipModel, processor: ClipVipProcessor) -> None:
    """Contrastive training on clips of the colours, each step with other words, places and shades."""
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(STEPS):
        clips = []
        for name in RGB:
            shade = rng.normal(0, 8, 3)
            frames = [color_picture(name, int(rng.integers(40))) + shade for _ in range(4)]
            clips.append(torch.from_numpy(np.clip(frames, 0, 255).astype(np.uint8)))
        pixels = torch.stack([processor.frames_to_pixels(clip.numpy()) for clip in clips])
        texts = processor(texts=[FORMS[step % len(FORMS)].format(name) for name in RGB])
        loss = contrastive_loss(
            model.encode_video(pixels),
            model.encode_text(texts["input_ids"], texts["attention_mask"]),
            model.logit_scale,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
