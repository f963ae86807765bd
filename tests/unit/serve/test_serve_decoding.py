"""What browsers play as it is, and the copies of everything else."""

from __future__ import annotations

import av
import numpy as np
import pytest

from clipvip.errors import VideoDecodeError
from clipvip.serve.decoding import browser_type, transcode
from clipvip.video import probe, read_frames
from helpers_video import has_encoder, sequential_times, write_audio, write_video


def beat(count: int = 1) -> None:
    pass


@pytest.mark.parametrize(
    ("name", "options", "played"),
    [
        ("a.mp4", {}, "video/mp4"),
        ("a.mov", {}, "video/mp4"),
        ("deep.mp4", {"pix_fmt": "yuv420p10le"}, None),
        ("sharp.mp4", {"pix_fmt": "yuv444p"}, None),
        ("hevc.mp4", {"codec": "libx265"}, None),
        ("old.mp4", {"codec": "mpeg4"}, None),
        ("a.mkv", {}, None),
        ("a.ts", {}, None),
        ("a.avi", {"codec": "mpeg4"}, None),
        ("a.webm", {"codec": "libvpx-vp9"}, "video/webm"),
        ("vp9.mkv", {"codec": "libvpx-vp9"}, None),
        ("av1.webm", {"codec": "libsvtav1"}, "video/webm"),
    ],
)
def test_what_is_played_and_what_is_copied(tmp_path, name, options, played):
    """Catches a film that the page shows as black, a copy of what needs none, and copies that lose frames or time."""
    if not has_encoder(options.get("codec", "libx264")):
        pytest.skip("this FFmpeg cannot write it")
    source = write_video(tmp_path / name, 15, grain=8, **options)
    assert browser_type(source) == played
    copy = tmp_path / "copy.mp4.partial"
    transcode(source, copy, 1 << 30, beat)
    assert browser_type(copy) == "video/mp4"
    before, after = probe(source, scan=True), probe(copy, scan=True)
    assert (after.num_frames, after.width, after.height) == (before.num_frames, before.width, before.height)
    assert after.duration_s == pytest.approx(before.duration_s, abs=0.02)
    np.testing.assert_allclose(sequential_times(copy)[0], sequential_times(source)[0], atol=0.001)
    apart = np.abs(read_frames(copy).astype(int) - read_frames(source).astype(int)).mean()
    assert apart < 12


def test_copies_stand_upright_and_are_not_larger_than_screens(tmp_path):
    """Catches films on their side, odd sizes that the encoder refuses, and copies of 4K in 4K."""
    source = write_video(tmp_path / "tall.mkv", 3, width=1602, height=900, rotation=90, grain=16)
    copy = tmp_path / "copy.mp4"
    transcode(source, copy, 1 << 30, beat)
    info = probe(copy)
    assert (info.width, info.height, info.rotation) == (720, 1280, 0)


def test_sound_comes_along(tmp_path):
    """Catches silent copies, and sound that is shifted against the pictures."""
    source, rate = tmp_path / "loud.mkv", 16_000
    with av.open(str(source), "w") as container:
        pictures = container.add_stream("libx264", rate=10)
        pictures.width = pictures.height = 64
        sounds = container.add_stream("aac", rate=rate)
        sounds.layout = "mono"
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 10 * i, np.uint8)).reformat(format="yuv420p")
            frame.pts = i + 7  # the film starts at 0.7 s, as recordings do
            container.mux(pictures.encode(frame))
        for i in range(30):
            tone = np.sin(np.arange(1024) * 0.2)[None].astype(np.float32) * (i >= 16)  # silent for its first second
            sound = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            sound.sample_rate, sound.pts = rate, 1024 * i + int(0.7 * rate)
            container.mux(sounds.encode(sound))
        container.mux(pictures.encode(None))
        container.mux(sounds.encode(None))
    copy = tmp_path / "copy.mp4"
    transcode(source, copy, 1 << 30, beat)
    with av.open(str(copy)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        loud = [frame.time for frame in container.decode(audio=0) if np.abs(frame.to_ndarray()).max() > 0.1]
    assert loud[0] == pytest.approx(16 * 1024 / rate, abs=0.1)


def test_films_that_break_off_and_films_too_large(tmp_path):
    """Catches half a copy kept as a whole one, and a disk filled by one request."""
    noise = write_video(tmp_path / "noise.mkv", 40)
    with pytest.raises(VideoDecodeError, match="more than 2,000 bytes"):
        transcode(noise, tmp_path / "copy.mp4", 2000, beat)
    with pytest.raises(VideoDecodeError, match="audio only"):
        transcode(write_audio(tmp_path / "song.mp4"), tmp_path / "copy.mp4", 1 << 30, beat)
