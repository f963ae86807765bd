"""All segments of a video in one pass: the frames that `read_frames` gives for each."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from clipvip.video import Scales, SegmentFrames, VideoInfo, index, probe, read_frames, segments, stream_segments
from helpers_video import has_encoder, sequential_times, write_video

FRAMES = 120  # 12 s
KINDS = {
    "h264.mp4": {"bf": "3", "g": "25"},
    "only_keyframes.mp4": {"g": "1"},
    "hevc.mkv": {"codec": "libx265", "g": "40"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "25"},
    "uneven.mp4": {"times_ms": [i * 100 + 9 * (i * i % 7) + 4000 * (i > 60) for i in range(FRAMES)], "bf": "2"},
    "no_index.avi": {"codec": "mpeg4", "g": "25"},
    "camera.ts": {"bf": "2", "g": "25"},
    "moving.gif": {"codec": "gif", "pix_fmt": "rgb8"},
}
SCALES = Scales.of([5.0, 2.0, 0.07], [2.0, 0.9, 0.07])


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("streamed")
    return {
        name: write_video(folder / name, FRAMES, grain=8, **options)
        for name, options in KINDS.items()
        if has_encoder(options.get("codec", "libx264"))
    }


def streamed(path: Path, scales: Scales = SCALES, **options) -> tuple[VideoInfo, list[SegmentFrames]]:
    found = list(stream_segments(path, scales, num_frames=4, size=24, **options))
    assert isinstance(found[0], VideoInfo)
    infos = [part for part in found if isinstance(part, VideoInfo)]
    return infos[-1], [part for part in found if isinstance(part, SegmentFrames)]


def spans_with_frames(path: Path, info: VideoInfo, scales: Scales = SCALES) -> list[tuple[float, float]]:
    """All windows but those in which nothing but a frame of more than a second ago is shown."""
    times = sequential_times(path)[0]
    ends = [*times[1:], info.duration_s]
    shown = [(start_s, min(end_s, start_s + 1)) for start_s, end_s in zip(times, ends, strict=True)]
    return sorted(
        (start_s, end_s)
        for start_s, end_s in scales.cut(info.duration_s)
        if any(a < end_s - 1e-6 and (b > start_s + 1e-6 or a >= start_s - 1e-6) for a, b in shown)
    )


def assert_equal_to_reading(path: Path, parts: list[SegmentFrames]) -> None:
    for part in parts:
        expected = read_frames(path, num_frames=4, size=24, time_range=(part.start_s, part.end_s))
        np.testing.assert_array_equal(part.frames, expected, err_msg=f"{part.start_s} to {part.end_s}")


@pytest.mark.parametrize("name", KINDS)
def test_segments_are_those_of_single_reads(videos: dict[str, Path], name: str) -> None:
    """Catches a segment with a neighbour's frame, one of a gap without frames, and a wrong length without a header."""
    if name not in videos:
        pytest.skip(f"no encoder for {name}")
    info, parts = streamed(videos[name])
    assert info.duration_s == pytest.approx(probe(videos[name], scan=True).duration_s, abs=0.002)
    assert sorted((part.start_s, part.end_s) for part in parts) == spans_with_frames(videos[name], info)
    assert_equal_to_reading(videos[name], parts)


def test_frames_are_decoded_once(videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a pass a segment (a film of three hours would be decoded a thousand times), and pictures made twice."""
    converted = []

    def noted(video, frame, size):
        converted.append(frame.pts)
        return shown_picture(video, frame, size)

    shown_picture = segments.shown_picture
    monkeypatch.setattr(segments, "shown_picture", noted)
    monkeypatch.setattr(segments, "_decoded_timeline", None)
    _, parts = streamed(videos["h264.mp4"])
    assert len(converted) == len(set(converted)) <= FRAMES
    assert sum(len(part.frames) for part in parts) > FRAMES


def test_segments_come_as_soon_as_they_end(videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches all pictures of a long film in memory before the first segment is handed on."""
    decoded = []

    def noted(*arguments):
        for found in index.planned_frames(*arguments):
            decoded.append(found)
            yield found

    monkeypatch.setattr(segments, "planned_frames", noted)
    parts = stream_segments(videos["h264.mp4"], Scales.of(1.0), num_frames=4)
    next(parts)
    first = next(parts)
    assert (first.start_s, first.end_s) == (0.0, 1.0)
    assert len(decoded) <= 8


def test_an_index_that_is_wrong_costs_nothing(videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches segments lost, or there twice, where the plan has to be given up half-way."""

    def breaks_off(*arguments):
        for number, found in enumerate(index.planned_frames(*arguments)):
            if number == 30:
                raise index.OffPlan
            yield found

    monkeypatch.setattr(segments, "planned_frames", breaks_off)
    info, parts = streamed(videos["h264.mp4"])
    assert sorted((part.start_s, part.end_s) for part in parts) == spans_with_frames(videos["h264.mp4"], info)
    assert_equal_to_reading(videos["h264.mp4"], parts)


@pytest.mark.parametrize("shots", [False, True])
@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.ts", "cut.avi"])
def test_of_a_file_that_breaks_off_what_is_there_is_used(tmp_path: Path, name: str, shots: bool) -> None:
    """Catches half a video that passes for a whole one, one that is left out whole, and containers that differ."""
    suffix = name.rpartition(".")[2]
    whole = write_video(tmp_path / f"whole.{suffix}", 100, faststart=suffix == "mp4", grain=8, g="10").read_bytes()
    cut = tmp_path / name
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    index._cache.clear()
    info, parts = streamed(cut, Scales.of(2.0), shots=shots)
    assert 4.0 < info.duration_s < 8.0
    if suffix != "ts":  # a transport stream does not say where it ends
        assert "after" in info.damage
    with warnings.catch_warnings(action="ignore"):
        assert_equal_to_reading(cut, parts)
    if not shots:
        assert sorted((part.start_s, part.end_s) for part in parts) == sorted(Scales.of(2.0).cut(info.duration_s))


def write_shots(path: Path, lengths: list[int], **options) -> Path:
    """Shots of so many frames: a still picture each, with a little noise."""
    import av

    rng = np.random.default_rng(3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "300", **options})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for length in lengths:
            scene = rng.integers(0, 230, (6, 8, 3)).repeat(8, 0).repeat(8, 1)
            for i in range(length):
                picture = np.roll(scene, i, axis=1) + rng.integers(0, 20, scene.shape)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_shots_end_at_cuts_and_long_ones_are_cut_into_windows(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a segment across a cut, one whose frames are not its own, and a shot of minutes as one segment."""
    video = write_shots(tmp_path / f"shots{suffix}", [20, 33, 12, 75])
    expected = [(0.0, 2.0), (2.0, 5.3), (5.3, 6.5), (6.5, 10.5), (8.5, 12.5), (10.0, 14.0)]
    for kept_bytes in (segments.KEPT_BYTES, 10 * 64 * 48 * 3 // 2):
        monkeypatch.setattr(segments, "KEPT_BYTES", kept_bytes)
        _, parts = streamed(video, Scales.of(4.0), shots=True)
        spans = sorted((part.start_s, part.end_s) for part in parts)
        np.testing.assert_allclose(spans, expected, atol=0.011)
        assert_equal_to_reading(video, parts)


def test_a_flash_and_a_pan_are_no_cuts(tmp_path: Path) -> None:
    """Catches shots of single frames: a flash of light, and a camera that moves fast all the time."""
    detector = segments.CutDetector()
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 200, (36, 400), dtype=np.uint8)
    cuts = [
        i / 25
        for i in range(60)
        if detector.sees(i / 25, np.full((36, 64), 255, np.uint8) if i == 10 else scene[:, 5 * i : 5 * i + 64])
    ]
    assert cuts == [0.0]
