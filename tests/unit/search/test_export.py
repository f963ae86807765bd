"""Hits as files of their own."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from clipvip.errors import InputError, VideoDecodeError
from clipvip.search import Hit
from clipvip.search.export import cut, export_hit
from helpers_video import FPS, write_audio, write_video

RATE = 16_000


def with_sound(path: Path, video: Path, pitches: list[int]) -> Path:
    """`video` with a tone a second, `pitches` Hz high."""
    with av.open(str(video)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        sound = container.add_stream("aac", rate=RATE)
        sound.layout = "mono"
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
        times = np.arange(RATE) / RATE
        for second, pitch in enumerate(pitches):
            tone = np.sin(2 * np.pi * pitch * times, dtype=np.float32)[None] * np.float32(0.3)
            frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            frame.sample_rate, frame.pts = RATE, second * RATE
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def frames_of(path: Path) -> tuple[list[float], np.ndarray]:
    with av.open(str(path)) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return [time for time, _ in frames], np.stack([picture for _, picture in frames]).astype(int)


def pitches_of(path: Path) -> list[int]:
    """The loudest pitch of each half second."""
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    halves = [sound[start : start + RATE // 2] for start in range(0, len(sound) - RATE // 4, RATE // 2)]
    return [round(float(np.abs(np.fft.rfft(half)).argmax() * RATE / len(half)), -2) for half in halves]


def test_a_part_with_sound_begins_at_its_first_frame(tmp_path):
    """Catches a cut that begins at the keyframe before or ends late, and sound that is out of step or missing."""
    video = write_video(tmp_path / "plain.mp4", 6 * FPS, grain=8, g="30")
    source = with_sound(tmp_path / "film.mp4", video, [400, 800, 1200, 1600, 2000, 2400])
    pictures = frames_of(source)[1]
    for start_s, end_s in ((1.3, 4.0), (3.0, 5.0)):  # between keyframes, and on one: that is copied
        cut(source, start_s, end_s, tmp_path / "cut.mp4")
        cut_times, cut_pictures = frames_of(tmp_path / "cut.mp4")
        first, last = round(start_s * FPS), round(end_s * FPS)
        assert cut_times[0] == pytest.approx(0, abs=0.001)
        assert last - first <= len(cut_pictures) <= last - first + (3 if start_s == 3.0 else 0)
        assert np.diff(cut_times) == pytest.approx(1 / FPS, abs=0.01)
        nearest = [np.abs(pictures - picture).mean(axis=(1, 2, 3)).argmin() for picture in cut_pictures[: last - first]]
        assert nearest == list(range(first, last))
        heard = pitches_of(tmp_path / "cut.mp4")
        there = [400 * (int(start_s + 0.25 + half / 2) + 1) for half in range(round(2 * (end_s - start_s)))]
        agreed = np.mean([a == b for a, b in zip(heard, there, strict=False)])
        assert agreed >= 0.7, (heard, there)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("turned.mp4", {"rotation": 90, "grain": 8}),
        ("odd.mkv", {"width": 65, "height": 47, "codec": "ffv1", "grain": 8}),
        ("plain.mkv", {"grain": 8}),
        ("vp9.webm", {"codec": "libvpx-vp9", "grain": 8}),
        ("old.avi", {"codec": "mpeg4", "grain": 8}),
        ("late.mp4", {"times_ms": [0, 100, 700, 800, 900, 1500, 1600], "grain": 8}),
    ],
)
@pytest.mark.parametrize("start_s", [0.0, 0.65])
def test_every_kind_of_file_can_be_cut(tmp_path, name, options, start_s):
    """Catches parts that lie on their side, odd sizes and codecs that end the run, and other times between frames."""
    from clipvip.video import read_frames, stream_frames

    source = write_video(tmp_path / name, len(options.get("times_ms", range(16))), **options)
    cut(source, start_s, 1.55, tmp_path / "cut.mp4")
    wanted = [(t, frame.rgb()) for t, frame in stream_frames(source) if start_s <= t < 1.55]
    height, width = (side // 2 * 2 for side in wanted[0][1].shape[:2])
    made = [(t, frame.rgb()) for t, frame in stream_frames(tmp_path / "cut.mp4")][: len(wanted)]
    assert [t for t, _ in made] == pytest.approx([t - wanted[0][0] for t, _ in wanted], abs=0.01)
    for (_, ours), (_, theirs) in zip(made, wanted, strict=True):
        assert ours.shape[:2] in ((height, width), theirs.shape[:2])
        assert np.abs(ours[:height, :width].astype(int) - theirs[:height, :width]).mean() < 12
    assert len(read_frames(tmp_path / "cut.mp4")) == 12


def test_hits_get_a_file_each(tmp_path):
    """Catches names that a file system refuses, and hits of one rank or video that overwrite each other."""
    source = write_video(tmp_path / "a:b?.mp4", 30, grain=8)
    hits = [Hit(rank, 0.5, source, 0.0, end_s, "s", "v") for rank, end_s in ((1, 1.0), (2, 2.0))]
    names = [export_hit(hit, tmp_path / "cuts" / "new").name for hit in hits]
    assert names == ["001 a_b_ 0.00-0.01.mp4", "002 a_b_ 0.00-0.02.mp4"]
    assert sorted(path.name for path in (tmp_path / "cuts" / "new").iterdir()) == names


def test_what_cannot_be_cut_leaves_nothing_behind(tmp_path):
    """Catches half a file, and a traceback for a video that is gone or changed since it was indexed."""
    (tmp_path / "text.mp4").write_text("not a video")
    for source in (tmp_path / "gone.mp4", tmp_path / "text.mp4", write_audio(tmp_path / "ton.mp4")):
        with pytest.raises(VideoDecodeError, match=source.name):
            cut(source, 0.0, 1.0, tmp_path / "cut.mp4")
    with pytest.raises(VideoDecodeError, match="beyond the end"):
        cut(write_video(tmp_path / "short.mp4", 5), 30.0, 40.0, tmp_path / "cut.mp4")
    with pytest.raises(InputError, match="no part"):
        cut(tmp_path / "short.mp4", 2.0, 1.0, tmp_path / "cut.mp4")
    assert not list(tmp_path.glob("cut.mp4*"))
