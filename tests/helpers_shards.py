"""A small data set of every kind of clip, videos whose frames can be told apart, and jobs that are killed."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

STEP = 8  # grey levels from frame to frame; lossy codecs miss by less than half of it


def write_greys(
    path: Path, num_frames: int = 20, *, fps: int = 10, width: int = 64, height: int = 48, **stream: str
) -> Path:
    """A video whose frame i is grey of level 10 + STEP * (i % 30)."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "10", "threads": "1"})
        video.width, video.height, video.pix_fmt = width, height, stream.get("pix_fmt", "yuv420p")
        for i in range(num_frames):
            picture = np.full((height, width, 3), 10 + STEP * (i % 30), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=video.pix_fmt)
            frame.pts = i
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def numbers(frames: np.ndarray | list[np.ndarray]) -> list[int]:
    """Which frames of such a video these are (modulo 30)."""
    return [round((float(frame.mean()) - 10) / STEP) for frame in frames]


def write_picture(path: Path, width: int = 60, height: int = 40) -> Path:
    """A noisy picture."""
    Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def write_set(folder: Path, *, damaged: bool = False, repeats: int = 1) -> Path:
    """A manifest of videos, parts of videos and pictures, with all kinds of texts; with `damaged` also a bad clip.

    repeats: each clip so many times, under ids of its own.
    """
    (folder / "media").mkdir(parents=True, exist_ok=True)
    write_greys(folder / "media" / "a.mp4")
    write_greys(folder / "media" / "b.part.MKV")
    write_picture(folder / "media" / "c.png")
    (folder / "media" / "broken.mp4").write_bytes((folder / "media" / "a.mp4").read_bytes()[:2000])
    rows: list[dict[str, Any]] = [
        {"clip_id": "whole", "video": "media/a.mp4", "captions": ["one", "zwei, ∂rei"], "split": "train"},
        {"clip_id": "mkv", "video": "media/b.part.MKV", "subtitle": "said", "caption": "seen", "topics": [{"x": None}]},
        {"clip_id": "part", "video": "media/a.mp4", "start_s": 0.5, "end_s": 1.2, "source": "web", "media": 7},
        {"clip_id": "tail", "video": "media/a.mp4", "start_s": 1.5, "captions": ["the end"]},
        {"clip_id": "picture", "image": "media/c.png", "captions": ["noise"], "split": "train"},
    ]  # fmt: skip
    if damaged:
        rows.insert(2, {"clip_id": "broken", "video": "media/broken.mp4"})
    with (folder / "set.jsonl").open("w", encoding="utf-8") as file:
        for repeat in range(repeats):
            for row in rows:
                clip_id = row["clip_id"] + (f"-{repeat}" if repeats > 1 else "")
                file.write(json.dumps(row | {"clip_id": clip_id}) + "\n")
    return folder / "set.jsonl"


def digests(folder: Path) -> dict[str, str]:
    """What is in a folder of shards, less the job's own notes."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name not in (".lock", "job.json")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shard_command(manifest: Path, out: Path, *options: object) -> list[str]:
    """The command line of `clipvip data shard`."""
    return [sys.executable, "-m", "clipvip", "data", "shard", str(manifest), "--out", str(out), *map(str, options)]


def _num_receipts(out: Path) -> int:
    return len(list((out / "receipts").glob("*.json")))


def kill_and_resume(folder: Path, kills: int, seed: int) -> None:
    """SIGKILL a command at random moments, let it end, and compare its folder with one that was never disturbed."""
    rng = random.Random(seed)
    manifest = write_set(folder, damaged=True, repeats=12)
    options = ("--fps", 5, "--clips-per-shard", 3, "--max-bad-share", 1)
    subprocess.run(shard_command(manifest, folder / "calm", *options), check=True, capture_output=True)
    command = shard_command(manifest, folder / "killed", *options)
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        done = _num_receipts(folder / "killed") + rng.randint(0, 5)
        while process.poll() is None and _num_receipts(folder / "killed") < done:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.01)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=rng.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)  # the process alone: its workers must notice
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
    assert digests(folder / "killed") == digests(folder / "calm")
    assert json.loads((folder / "killed" / "shards.json").read_text())["clips"] == 60
    assert (folder / "killed" / "bad_clips.jsonl").read_text().count("\n") == 12
