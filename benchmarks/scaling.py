"""The tables of docs/scaling.md: the cost of post-pre-training on HD-VILA-100M, by counts, datasheets, measured rates.

GPU figures are arithmetic, not measurements. --measure measures the loader's part on a clip that decode.py makes: what
it costs to shrink, and to load from its file and from shards.

    python benchmarks/scaling.py [--measure FOLDER] [--clip h264-720p-15s] [--repeats 7]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Literal

import av
import torch
from decode import CLIPS as VIDEOS
from decode import SIZE, _no_tokens, video_file
from measure import Case, describe, interleaved_spent, table
from peers import config_of

from clipvip.data.clips import open_clips
from clipvip.data.dataset import ClipDataset, Collator, Sources
from clipvip.data.shards import write_shards
from clipvip.data.shards.shrink import shrink_to_jpegs, shrink_video
from clipvip.model import ClipVipModel
from clipvip.training.meter import training_flops
from clipvip.video.transforms import to_pixel_values

CLIPS, FRAMES, TOKENS = 100e6, 12, 70
TFLOPS = {"A100": 312.0, "L40S": 362.0, "H100, H200": 989.0}  # datasheets: bfloat16, dense
MFU = {"30 %": 0.3, "40 %": 0.4, "50 %": 0.5}
FILE, SHARD = (0.59, 3.04), (0.037, 0.286)  # core seconds and MB a clip of 720p, as --measure found them
SHRUNK: dict[str, tuple[Literal["video", "frames"], float | None]] = {
    "shard, --short-side 224": ("video", None),
    "shard, --short-side 224 --fps 6": ("video", 6),
    "shard, --short-side 224 --fps 3": ("video", 3),
    "shard, --short-side 224 --fps 3 --as frames": ("frames", 3),
}


def gpu_tables() -> None:
    """Print what each kind of GPU could eat, and what that asks of cores and disks."""
    rates, limits = [], []
    for size in ("b32", "b16"):
        config = config_of(size)
        with torch.device("meta"):
            num_parameters = sum(parameter.numel() for parameter in ClipVipModel(config).parameters())
        flops = training_flops(config, FRAMES, TOKENS, frame=True, caption=True)
        print(f"{size}: {flops / 1e9:.1f} GFLOP a clip, {num_parameters:,} parameters")
        for name, peak in TFLOPS.items():
            per_s = {at: peak * 1e12 * mfu / flops for at, mfu in MFU.items()}
            hours = [f"{CLIPS / rate / 3600:.0f}" for rate in per_s.values()]
            rates.append([size, name, *(f"{rate:.0f}" for rate in per_s.values()), *hours])
            rate = per_s["40 %"]
            needs = [f"{rate * each:.0f}" for kind in (FILE, SHARD) for each in kind]
            limits.append([size, name, f"{rate:.0f}", *needs])
    table(
        "Clips a second and GPU hours a pass, by share of the datasheet's rate",
        ["model", "GPU", *(f"clips/s, {at}" for at in MFU), *(f"hours, {at}" for at in MFU)],
        rates,
        "Arithmetic, not measurements.",
    )
    headings = [
        "model",
        "GPU",
        "clips/s",
        *(f"{kind}: {of}" for kind in ("files", "shards") for of in ("cores", "MB/s")),
    ]
    table("What a GPU at 40 % needs", headings, limits, "Arithmetic, not measurements.")


def loading_table(folder: Path, clip: str, repeats: int) -> None:
    """Print bytes and processor time of a clip, from its file and from shards."""
    file = video_file(folder, clip)
    manifest = folder / "clips.jsonl"
    manifest.write_text(json.dumps({"clip_id": clip, "video": file.name, "captions": ["a disc"]}) + "\n")
    places, costs = {"the file": str(manifest)}, {"the file": [f"{file.stat().st_size / 1000:.0f}", ""]}
    for name, (media, fps) in SHRUNK.items():
        start = time.process_time()
        num_bytes = _shrink(file, media, fps)
        costs[name] = [f"{num_bytes / 1000:.0f}", f"{1000 * (time.process_time() - start):.0f}"]
        places[name] = str(folder / f"{media}-{fps}")
        write_shards(manifest, places[name], media=media, fps=fps, short_side=SIZE, workers=1)
    ways = {"decoder": (SIZE, SIZE), "tensor": None}
    cases = {f"{name} {way}": Case(_load(places[name], size)) for name in places for way, size in ways.items()}
    spent = interleaved_spent(cases, repeats, torch.device("cpu"))
    rows = [
        [
            name,
            *costs[name],
            *(f"{statistics.median(step.cpu_ms for step in spent[f'{name} {way}']):.1f}" for way in ways),
        ]
        for name in places
    ]
    headings = ["from", "kB", "CPU ms to make", *(f'CPU ms to load, resize_in="{way}"' for way in ways)]
    caption = f"{clip}, one thread. To load: {FRAMES} jittered frames and the middle one, as a batch of one clip."
    table("A clip", headings, rows, caption)


def _shrink(file: Path, media: str, fps: float | None) -> int:
    if media == "frames":
        return sum(map(len, shrink_to_jpegs(file, None, fps=fps, short_side=SIZE)[0]))
    return len(shrink_video(file, None, fps=fps, short_side=SIZE))


def _load(place: str, decoder_size: tuple[int, int] | None) -> partial[None]:
    sources = Sources(frame=True)
    dataset = ClipDataset(open_clips(place), num_frames=FRAMES, sources=sources, seed=0, decoder_size=decoder_size)
    collator = Collator(_no_tokens, partial(to_pixel_values, image_size=SIZE), SIZE, "squash", sources)
    return partial(_step, dataset, collator, itertools.count())


def _step(dataset: ClipDataset, collator: Collator, passes: itertools.count[int]) -> None:
    collator([dataset[next(passes), 0]])


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="measure loading too; the files stay there")
    parser.add_argument("--clip", choices=VIDEOS, default="h264-720p-15s")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    gpu_tables()
    if options.measure:
        torch.set_num_threads(1)
        print("", describe(torch.device("cpu"), f"av {av.__version__}, medians of {options.repeats}"), sep="\n")
        loading_table(options.measure, options.clip, options.repeats)


if __name__ == "__main__":
    main()
