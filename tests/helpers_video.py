"""Small real media files, made on the spot, and the plain decode that everything is compared with."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

FPS = 10


def write_video(
    path: Path,
    num_frames: int = 20,
    *,
    codec: str = "libx264",
    width: int = 64,
    height: int = 48,
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    hflip: bool = False,
    first_pts: int = 0,
    faststart: bool = False,
    **options: str,
) -> Path:
    """Write `num_frames` different noisy frames at FPS frames a second; `options` go to the encoder."""
    if codec == "libvpx-vp9":
        options = {"deadline": "realtime", "cpu-used": "8", **options}
    container_options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if rotation or hflip:
            stream.set_display_rotation(rotation, hflip=hflip)
        for i in range(num_frames):
            picture = np.random.default_rng(i).integers(0, 255, (height, width, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts = first_pts + i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    """Write a short silent audio file without any video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        for _ in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sequential_decode(path: Path) -> np.ndarray:
    """The oracle: every frame, in the order in which a plain decode yields them, neither rotated nor scaled."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
