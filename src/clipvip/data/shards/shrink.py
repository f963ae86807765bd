"""Clips made smaller before training: cut to their part, fewer frames a second, a shorter short side.

CLIP-ViP's authors did this by hand (3 to 6 frames a second, short side 224): decoding is most of what loading costs.

H x W pixels, after rotation.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from clipvip.video import (
    OpenVideo,
    TimeRange,
    VideoInfo,
    decode_error,
    frames_within,
    open_video,
    probe,
    read_image,
    shown_picture,
    shown_s,
)

JPEG_QUALITY = 90
H264 = {
    "crf": "23",
    "preset": "veryfast",
    # With more threads, or with its macroblock tree, x264 writes other bytes from time to time.
    "threads": "1",
    "x264-params": "mbtree=0",
}
_TICK = Fraction(1, 90_000)  # s; exact for 24, 25, 30, 30/1.001, ... frames a second
_USUAL_FPS = 25.0  # where the header is silent


class CutFrame(NamedTuple):
    """A picture (uint8 [H, W, 3]), when it is shown after the clip's first one, and for how long."""

    time_s: float
    duration_s: float
    picture: np.ndarray


def shrink_video(path: Path, time_range: TimeRange | None, *, fps: float | None, short_side: int | None) -> bytes:
    """A clip as H.264 in MP4: without sound, even sizes, never larger and never faster than it is.

    Frames keep their own times: one nearest to each 1/fps (None: all of them).
    Raises: VideoDecodeError.
    """
    info = probe(path)
    size = shrunk_size(info.height, info.width, short_side, even=True)
    rate = min(fps or math.inf, info.fps or _USUAL_FPS)
    try:
        return _encoded(_cut_frames(path, info, time_range, fps, size), rate, size)
    except av.FFmpegError as error:
        reason = f"{size[1]} x {size[0]} pixels at {rate:g} fps cannot be made H.264 ({error.strerror})"
        raise decode_error(str(path), reason, "leave it out") from error


def shrink_to_jpegs(
    path: Path, time_range: TimeRange | None, *, fps: float | None, short_side: int | None
) -> tuple[list[bytes], list[float]]:
    """The same frames as JPEGs, and their seconds after the first one.

    Raises: VideoDecodeError.
    """
    info = probe(path)
    size = shrunk_size(info.height, info.width, short_side, even=False)
    jpegs, times_s = [], []
    for frame in _cut_frames(path, info, time_range, fps, size):
        jpegs.append(_jpeg(Image.fromarray(frame.picture)))
        times_s.append(round(frame.time_s, 6))
    return jpegs, times_s


def shrink_image(path: Path, short_side: int | None) -> bytes | None:
    """A picture, turned upright and scaled, as JPEG; None if it is small enough as it is (it was decoded all the same).

    Raises: VideoDecodeError.
    """
    picture = read_image(path)
    height, width = shrunk_size(picture.shape[0], picture.shape[1], short_side, even=False)
    if (height, width) == picture.shape[:2]:
        return None
    return _jpeg(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def shrunk_size(height: int, width: int, short_side: int | None, *, even: bool) -> tuple[int, int]:
    """(H, W) with a short side of at most `short_side`, rounded down (H.264 of this kind wants even numbers)."""
    scale = 1.0 if short_side is None else min(1.0, short_side / min(height, width))
    unit = 2 if even else 1
    # 1e-6: 1080 * (224 / 1080) may lie a rounding error below 224
    height, width = (max(int(side * scale / unit + 1e-6), 1) * unit for side in (height, width))
    return height, width


def _cut_frames(
    path: Path, info: VideoInfo, time_range: TimeRange | None, fps: float | None, size: tuple[int, int]
) -> Iterator[CutFrame]:
    """The frames of a clip, or those nearest to 0, 1/fps, 2/fps, ... seconds; one at a time: any length fits."""
    start_s, end_s = time_range or (0.0, math.inf)
    with open_video(path, threads=1) as video:
        # A frame is nearest if it lies within half a step of the source; timestamps may be rounded to milliseconds.
        early_s = 0.0 if fps is None else 0.5 / max(info.fps or _USUAL_FPS, fps)
        held: tuple[float, Any] | None = None  # waits for the next one: only then is known how long it is shown
        first_s, shown_until_s, due_number = None, 0.0, 0
        for at_s, raw in frames_within(video, time_range):
            first_s = at_s if first_s is None else first_s
            time_s = at_s - first_s
            shown_until_s = time_s + shown_s(video, raw)
            if fps is not None:
                slot = math.floor((time_s + early_s) * fps + 1e-6)
                if slot < due_number:
                    continue
                due_number = slot + 1
            if held is not None:
                yield _frame(video, held, time_s, size)
            held = (time_s, raw)
        if video.damage is not None:
            raise decode_error(video.name, video.damage)
    if held is not None:
        yield _frame(video, held, min(shown_until_s, end_s - start_s), size)


def _frame(video: OpenVideo, held: tuple[float, Any], until_s: float, size: tuple[int, int]) -> CutFrame:
    time_s, raw = held
    return CutFrame(time_s, max(until_s - time_s, float(_TICK)), shown_picture(video, raw, size))


def _encoded(frames: Iterable[CutFrame], rate: float, size: tuple[int, int]) -> bytes:
    """H.264 in MP4. rate: about how many frames a second; the timestamps are those of the frames.

    MP4 has a duration for the frame that is decoded last, not for the one shown last: where frames are not evenly
    spaced, the end of the clip may be off by less than a frame.
    """
    out = io.BytesIO()
    durations: dict[int, int] = {}  # by timestamp; of frames that are in the encoder
    last = -1
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001), options=H264)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = _TICK

        def write(frame: av.VideoFrame | None) -> None:
            for packet in stream.encode(frame):
                packet.duration = durations.pop(packet.pts)
                container.mux(packet)

        for time_s, duration_s, picture in frames:
            last = max(round(time_s / _TICK), last + 1)
            durations[last] = max(round(duration_s / _TICK), 1)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = last, _TICK
            write(frame)
        write(None)
    return out.getvalue()


def _jpeg(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()
