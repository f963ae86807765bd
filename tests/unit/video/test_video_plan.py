"""The short way to a few frames: the same frames as the long way, and the long way wherever it cannot be trusted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipvip.video import decode, index, read_frames
from clipvip.video.container import open_video
from helpers_video import has_encoder, sequential_decode, write_video

LONG = 130
TRUSTED = {
    "b_frames.mp4": {"bf": "3", "g": "25"},
    "open_gop.mkv": {"bf": "3", "g": "25", "x264-params": "open-gop=1"},
    "one_keyframe.mp4": {"bf": "2", "g": "1000"},
    "only_keyframes.mp4": {"g": "1"},
    "late_start.mp4": {"first_pts": 37, "g": "25"},
    "odd.mp4": {"width": 65, "height": 49, "pix_fmt": "yuv444p", "g": "25"},
    "hevc.mp4": {"codec": "libx265", "g": "25", "x265-params": "log-level=none:keyint=25:open-gop=1"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "25"},
    "av1.mp4": {"codec": "libsvtav1", "height": 64, "g": "25"},
    "hidden_start.mp4": {"first_pts": -30, "bf": "2", "g": "25"},
    "uneven.mp4": {"times_ms": [i * 250 + 35 * (i * i % 7) for i in range(LONG)], "bf": "2", "g": "20"},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("planned")
    return {
        name: write_video(folder / name, LONG, grain=8, **options)
        for name, options in TRUSTED.items()
        if has_encoder(options.get("codec", "libx264"))
    }


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each planned decode gave its frames (else the sequential one did)."""
    seen: list[bool] = []

    def watched(*arguments: Any) -> Any:
        found = index.decode_planned(*arguments)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(decode, "decode_planned", watched)
    return seen


@pytest.mark.parametrize("name", TRUSTED)
def test_any_frames_equal_those_of_a_sequential_decode(
    videos: dict[str, Path], name: str, outcomes: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a skipped reference frame, a seek to the wrong keyframe and leading pictures without their references."""
    if name not in videos:
        pytest.skip(f"no encoder for {name}")
    expected, rng = sequential_decode(videos[name]), np.random.default_rng(0)
    for worth_a_seek in (0, index.WORTH_A_SEEK):
        monkeypatch.setattr(index, "WORTH_A_SEEK", worth_a_seek)
        for count in (1, 2, 5, 12, 40):
            picked = rng.integers(0, len(expected), count)
            np.testing.assert_array_equal(read_frames(videos[name], picked), expected[picked], err_msg=str(picked))
    assert all(outcomes), "the plan was given up"
    assert len(outcomes) == 10


def test_a_seek_skips_what_nobody_asked_for(videos: dict[str, Path]) -> None:
    """Catches a plan that seeks nowhere, or for the sake of a few frames."""
    with open_video(videos["b_frames.mp4"], threads=1) as video:
        found = index.packet_index(video)
    assert found is not None
    runs = index._runs(found, found.pts[[129, 0, 1, 60, 0]])
    assert runs == [found.pts[[0, 1]].tolist(), found.pts[[60]].tolist(), found.pts[[129]].tolist()]
    near = int(np.searchsorted(found.pts, found.keys[1]))
    assert len(index._runs(found, found.pts[[near - 1, near + 1]])) == 1


def test_a_file_is_scanned_once(videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a film that is read from end to end for every clip cut out of it, and a scan kept after a change."""
    scans = []
    scan = index._scan
    monkeypatch.setattr(index, "_scan", lambda video: scans.append(video.name) or scan(video))
    index._cache.clear()
    for _ in range(3):
        read_frames(videos["b_frames.mp4"], [5], time_range=(2.0, 6.0))
    assert len(scans) == 1
    videos["b_frames.mp4"].touch()
    read_frames(videos["b_frames.mp4"], [5])
    assert len(scans) == 2


def test_large_files_are_not_scanned_for_a_range(videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches 5 GB read for the sake of four seconds."""
    index._cache.clear()
    monkeypatch.setattr(decode, "SCAN_BYTES", 1)
    monkeypatch.setattr(index, "_scan", lambda video: pytest.fail("scanned"))
    expected = sequential_decode(videos["b_frames.mp4"])
    cut = read_frames(videos["b_frames.mp4"], lambda total: np.arange(total), time_range=(7.0, 8.0))
    np.testing.assert_array_equal(cut, expected[70:80])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: index.PacketIndex(found.pts + 1, found.keys + 1, found.time_base_s, found.last_s, True),
        lambda found: index.PacketIndex(found.pts[::2], found.keys, found.time_base_s, found.last_s, True),
    ],
    ids=["shifted", "packets that are no frames"],
)
def test_an_index_that_lies_is_found_out(
    videos: dict[str, Path], outcomes: list[bool], spoil: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches wrong frames where packets and frames do not correspond: the sequential decode must take over."""
    true_index = index.packet_index
    monkeypatch.setattr(decode, "packet_index", lambda video, **options: spoil(true_index(video, **options)))
    expected = sequential_decode(videos["b_frames.mp4"])
    np.testing.assert_array_equal(read_frames(videos["b_frames.mp4"], [3, 17, 40]), expected[[3, 17, 40]])
    assert outcomes == [False]


def test_untrusted_containers_have_no_index(tmp_path: Path) -> None:
    """Catches trust in transport streams and AVI, whose packets need not be frames."""
    for name, options in {"a.ts": {"bf": "2"}, "b.avi": {"bf": "0"}}.items():
        with open_video(write_video(tmp_path / name, 20, **options), threads=1) as video:
            assert index.packet_index(video) is None
