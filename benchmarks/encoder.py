"""Our vision tower against transformers' CLIPVisionModel on the same frames: the price of seeing video.

Paired and interleaved in one process; medians and their ratio. Prints a Markdown table for docs/benchmarks.md.

    python benchmarks/encoder.py [--size b32|small] [--batch 2] [--repeats 7] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from clipvip.model import ClipVipConfig, ClipVipModel

SIZES = {
    "b32": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 224, "patch_size": 32},
    "small": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
              "image_size": 48, "patch_size": 12},
}  # fmt: skip
NUM_FRAMES = {"b32": 12, "small": 4}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="b32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    vision, num_frames = SIZES[options.size], NUM_FRAMES[options.size]
    ours = ClipVipModel(ClipVipConfig(vision_config=vision, num_frames=num_frames)).eval()
    peer = CLIPVisionModel(CLIPVisionConfig(**vision)).eval()
    pixels = torch.randn(options.batch, num_frames, 3, vision["image_size"], vision["image_size"])

    def clip_forward() -> torch.Tensor:
        return peer(pixel_values=pixels.flatten(0, 1)).pooler_output

    def vip_forward() -> torch.Tensor:
        return ours.vision_model(pixels)

    def inference(forward: Callable[[], torch.Tensor]) -> None:
        with torch.inference_mode():
            forward()

    def training(forward: Callable[[], torch.Tensor]) -> None:
        forward().square().mean().backward()

    print(
        f"torch {torch.__version__}, {options.threads} threads, {options.size}, {options.batch} x {num_frames} frames\n"
    )
    print("| | CLIPVisionModel ms | clipvip ms | ratio |\n|---|---|---|---|")
    for title, step in {"inference": inference, "forward + backward": training}.items():
        step(clip_forward), step(vip_forward)
        times: dict[Callable[[], torch.Tensor], list[float]] = {clip_forward: [], vip_forward: []}
        for _ in range(options.repeats):
            for forward, spent in times.items():
                start = time.perf_counter()
                step(forward)
                spent.append(1000 * (time.perf_counter() - start))
        clip, vip = (statistics.median(spent) for spent in times.values())
        print(f"| {title} | {clip:.1f} | {vip:.1f} | {clip / vip:.2f} |")


if __name__ == "__main__":
    main()
