"""Small real media files, made on the spot, and the plain decode that everything is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

FPS = 10
MS = Fraction(1, 1000)
QUICK = {
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
}


def has_encoder(codec: str) -> bool:
    """Whether this build of FFmpeg can write it."""
    try:
        return av.codec.Codec(codec, "w").is_encoder
    except av.codec.codec.UnknownCodecError:
        return False


def write_video(
    path: Path,
    num_frames: int = 20,
    *,
    codec: str = "libx264",
    width: int = 64,
    height: int = 48,
    pix_fmt: str = "yuv420p",
    rate: int = FPS,
    rotation: int = 0,
    hflip: bool = False,
    alpha: bool = False,
    still: bool = False,
    grain: int = 1,
    first_pts: int = 0,
    times_ms: Sequence[int] | None = None,
    faststart: bool = False,
    muxer: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Write `num_frames` different noisy frames at `rate` frames a second; `options` go to the encoder.

    alpha: with random opacity. still: the same picture again and again. grain: side of the noise's squares; larger ones
    are faster to code. times_ms: when each frame is shown, instead of the rate. first_pts: of the first frame; an mp4
    with negative ones hides those frames by an edit list.
    """
    container_options = {"movflags": "faststart"} if faststart else muxer or {}
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=rate, options=QUICK.get(codec, {}) | options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if times_ms is not None:
            stream.codec_context.time_base = MS
        if rotation or hflip:
            stream.set_display_rotation(rotation, hflip=hflip)
        for i in range(num_frames):
            rng = np.random.default_rng(0 if still else i)
            coarse = -(-height // grain), -(-width // grain), 4 if alpha else 3
            picture = rng.integers(0, 255, coarse, dtype=np.uint8).repeat(grain, 0).repeat(grain, 1)[:height, :width]
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(picture), format="rgba" if alpha else "rgb24"
            ).reformat(format=pix_fmt)
            frame.pts = first_pts + i
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[i], MS
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_videos(folder: Path, *num_frames: int, **options: Any) -> Path:
    """A folder with 0.mp4, 1.mp4 and so on, of so many frames each, no two alike."""
    folder.mkdir(exist_ok=True)
    for number, count in enumerate(num_frames):
        write_video(folder / f"{number}.mp4", count, grain=number + 1, **options)
    return folder


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
    """The oracle: every frame in the order of a plain decode, neither rotated nor scaled, on white."""
    with av.open(str(path)) as container:
        rgba = np.stack([frame.to_ndarray(format="rgba") for frame in container.decode(video=0)])
    opacity = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)


def sequential_times(path: Path) -> tuple[list[float], list[float]]:
    """The oracle of time: of every frame, and of the keyframes among them, the seconds after the first frame.

    Frames without a timestamp are counted at the stream's rate; those that are a little early go between others.
    """
    with av.open(str(path)) as container:
        step_s = 1 / container.streams.video[0].guessed_rate
        frames = [(frame.pts, frame.time_base, frame.key_frame) for frame in container.decode(video=0)]
    first = frames[0][0]
    raw = np.array(
        [float(i * step_s if pts is None else (pts - first) * base) for i, (pts, base, _) in enumerate(frames)]
    )
    good = np.flatnonzero(raw > np.maximum.accumulate(np.append(-1.0, raw[:-1])))
    times = np.interp(np.arange(len(raw)), good, raw[good]).tolist()
    return times, [time_s for time_s, (_, _, is_key) in zip(times, frames, strict=True) if is_key]


def write_frame(path: Path, grey: int, size: tuple[int, int] = (16, 12)) -> Path:
    """An image of one grey."""
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)
    return path


def write_frames(folder: Path, count: int) -> Path:
    """A folder of frames named as in the released data, of which frame i is grey of level i."""
    for i in range(count):
        write_frame(folder / f"{folder.name}_{i:03d}.png", i)
    return folder
