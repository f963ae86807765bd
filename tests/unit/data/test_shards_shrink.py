"""The compression step: which frames stay, when they are shown, how large they are."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipvip.data.shards.shrink import shrink_image, shrink_to_jpegs, shrink_video, shrunk_size
from clipvip.errors import VideoDecodeError
from clipvip.video import probe, read_frames, stream_frames
from helpers_shards import numbers, write_greys, write_picture
from helpers_video import write_video


def times(media: bytes | Path) -> list[float]:
    return [round(time_s, 4) for time_s, _ in stream_frames(media)]


def shrunk(path: Path, time_range: tuple[float, float] | None = None, **limits: float | None) -> bytes:
    return shrink_video(path, time_range, **({"fps": None, "short_side": None} | limits))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fps", "kept"),
    [(5, list(range(0, 30, 2))), (10, list(range(30))), (30, list(range(30))), (None, list(range(30))), (0.5, [0, 20])],
)
def test_the_frames_nearest_to_the_grid(tmp_path: Path, fps: float | None, kept: list[int]) -> None:
    """Catches frames dropped or doubled, a raised frame rate, and a clip that ends too early or too late."""
    clip = shrunk(write_greys(tmp_path / "a.mp4", 30), fps=fps)
    assert numbers(read_frames(clip, np.arange)) == kept
    assert times(clip) == [i / 10 for i in kept]
    info = probe(clip)
    assert info.duration_s == pytest.approx(3.0, abs=1e-3)
    assert info.fps == pytest.approx(len(kept) / 3, rel=1e-3)
    assert info.codec == "h264"


@pytest.mark.parametrize(("fps", "step"), [(30, 1), (10, 3), (3, 10)])
def test_timestamps_in_milliseconds(tmp_path: Path, fps: int, step: int) -> None:
    """Catches a grid so strict that a frame at 0.333 s misses its place at 1/3 s."""
    clip = shrunk(write_greys(tmp_path / "a.mkv", 60, fps=30), fps=fps)
    assert numbers(read_frames(clip, np.arange)) == [i % 30 for i in range(0, 60, step)]


def test_uneven_rates_keep_real_times(tmp_path: Path) -> None:
    """Catches frames that are moved onto the grid: at 10 fps there is none at 1/6 s."""
    clip = shrunk(write_greys(tmp_path / "a.mp4", 30), fps=6)
    found = times(clip)
    assert len(found) == 18
    assert found == [round(number / 10, 4) for number in numbers(read_frames(clip, np.arange))]
    assert max(abs(time_s - i / 6) for i, time_s in enumerate(found)) <= 0.0501


@pytest.mark.parametrize("time_range", [(0.5, 1.2), (0.0, 0.75), (1.5, float("inf")), (0.52, 0.58)])
def test_part_of_a_video(tmp_path: Path, time_range: tuple[float, float]) -> None:
    """Catches a cut that is off by a frame, or that does not start at 0."""
    path = write_greys(tmp_path / "a.mp4")
    clip = shrunk(path, time_range)
    expected = numbers(read_frames(path, np.arange, time_range=time_range))
    assert numbers(read_frames(clip, np.arange)) == expected
    assert times(clip) == [round(i / 10, 4) for i in range(len(expected))]
    duration_s = 0.06 if time_range[0] == 0.52 else len(expected) / 10
    start_s, end_s = time_range
    wanted_s = min(duration_s, end_s - start_s)
    assert wanted_s - 1e-3 <= (probe(clip).duration_s or 0) < wanted_s + 0.1  # see `_encoded`


def test_a_range_beyond_the_end(tmp_path: Path) -> None:
    """Catches an empty clip."""
    with pytest.raises(VideoDecodeError, match="beyond the end"):
        shrunk(write_greys(tmp_path / "a.mp4"), (7.0, 9.0))


def test_sizes(tmp_path: Path) -> None:
    """Catches odd sizes that H.264 refuses, pictures made larger, and sides mixed up."""
    wide = write_greys(tmp_path / "wide.mp4", 2, width=201, height=101, pix_fmt="yuv444p")
    for short_side, size in ((50, (98, 50)), (51, (100, 50)), (None, (200, 100)), (1000, (200, 100))):
        info = probe(shrunk(wide, short_side=short_side))
        assert (info.width, info.height) == size, short_side
    turned = write_video(tmp_path / "turned.mp4", 2, width=96, height=64, rotation=90)
    info = probe(shrunk(turned, short_side=32))
    assert (info.width, info.height, info.rotation) == (32, 48, 0)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(2, 1000))
def test_shrunk_size(height: int, width: int, short_side: int) -> None:
    """Catches rounding that leaves 223 of 224."""
    even_height, even_width = shrunk_size(height, width, short_side, even=True)
    assert even_height % 2 == even_width % 2 == 0
    scaled = shrunk_size(height, width, short_side, even=False)
    assert min(scaled) == min(short_side, height, width)
    assert scaled[0] <= height
    assert scaled[1] <= width
    assert abs(scaled[0] * width - scaled[1] * height) <= max(height, width)


def test_colours_and_pixels_stay(tmp_path: Path) -> None:
    """Catches a conversion with the wrong matrix or range, or channels swapped."""
    path = tmp_path / "colours.mp4"
    colours = [(200, 30, 40), (20, 180, 60), (30, 50, 210), (240, 240, 240), (10, 10, 10)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for colour in colours:
            picture = np.full((64, 64, 3), colour, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    before, after = (read_frames(media, np.arange).astype(int) for media in (path, shrunk(path, fps=5)))
    assert np.abs(before - after).max() <= 6


def test_sound_is_dropped(tmp_path: Path) -> None:
    """Catches audio that takes more room than the pictures."""
    path = tmp_path / "loud.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream("aac", rate=16000)
        audio.layout = "mono"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate = 16000
            container.mux(audio.encode(sound))
        container.mux([*stream.encode(None), *audio.encode(None)])
    with av.open(io.BytesIO(shrunk(path, fps=5))) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_the_same_bytes_again(tmp_path: Path) -> None:
    """Catches encoders that depend on the time or the number of cores; x264's macroblock tree differed in 3 of 100."""
    path = write_greys(tmp_path / "a.mp4")
    assert len({shrunk(path, fps=5) for _ in range(200)}) == 1


def test_jpegs(tmp_path: Path) -> None:
    """Catches frames and times that do not belong together, and sizes made even for no reason."""
    path = write_greys(tmp_path / "a.mp4", width=64, height=50)
    jpegs, times_s = shrink_to_jpegs(path, (0.3, 1.9), fps=5, short_side=25)
    pictures = [np.array(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs]
    assert numbers(pictures) == [3, 5, 7, 9, 11, 13, 15, 17]
    assert times_s == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4]
    assert {picture.shape for picture in pictures} == {(25, 32, 3)}


def test_pictures(tmp_path: Path) -> None:
    """Catches small pictures encoded anew for nothing, and a picture that nobody looked at."""
    path = write_picture(tmp_path / "a.png", width=60, height=40)
    assert shrink_image(path, None) is None
    assert shrink_image(path, 40) is None
    jpeg = shrink_image(path, 20)
    assert jpeg is not None
    assert Image.open(io.BytesIO(jpeg)).size == (30, 20)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(VideoDecodeError, match="damaged picture"):
        shrink_image(path, None)


def test_a_video_that_breaks_off(tmp_path: Path) -> None:
    """Catches the first half of a clip taken for all of it."""
    path = write_video(tmp_path / "a.mp4", 60, faststart=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoDecodeError, match="breaks off"):
        shrunk(path, fps=5)
