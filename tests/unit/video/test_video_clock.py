"""Clocks that jump, run backwards or slip: one ascending timeline, the same frames through every entry point."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import numpy as np
import pytest

from clipvip.video import Scales, SegmentFrames, VideoInfo, index, probe, read_frames, stream_frames, stream_segments
from clipvip.video.sampling import cut_segments, cut_where_frames_are
from clipvip.video.timeline import Clock
from helpers_video import sequential_decode, write_video

JUMP_MS = 72_000_000
YEARS_MS = 1_690_000_000_000
TWELVE = Scales.of(12.0, 6.0)


def after_a_jump(jump_ms: int) -> list[int]:
    """Two seconds of frames, and two more that much later."""
    return [i * 40 for i in range(50)] + [jump_ms + i * 40 for i in range(50)]


def parts_of(path: Path, scales: Scales, **options) -> tuple[VideoInfo, list[SegmentFrames]]:
    found = list(stream_segments(path, scales, num_frames=4, size=24, **options))
    infos = [part for part in found if isinstance(part, VideoInfo)]
    return infos[-1], [part for part in found if isinstance(part, SegmentFrames)]


def joined(path: Path, *lengths: int, **options) -> Path:
    """Recordings of so many frames, each with a clock of its own, one after the other in one file."""
    contents = []
    for number, length in enumerate(lengths):
        part = write_video(path.with_stem(f"part{number}"), length, rate=25, grain=4 + number, **options)
        contents.append(part.read_bytes())
    path.write_bytes(b"".join(contents))
    return path


@pytest.mark.parametrize("shots", [False, True])
@pytest.mark.parametrize(("suffix", "jump_ms"), [("mp4", JUMP_MS), ("mkv", JUMP_MS), ("mkv", YEARS_MS)])
def test_windows_are_only_where_frames_are(tmp_path, suffix, jump_ms, shots):
    """Catches thousands of windows of one still picture, and millions that are listed before the first is made."""
    path = write_video(tmp_path / f"jump.{suffix}", 100, times_ms=after_a_jump(jump_ms), grain=8)
    info, parts = parts_of(path, TWELVE, shots=shots)
    assert 2 <= len(parts) <= 3
    assert info.duration_s == pytest.approx(jump_ms / 1000 + 2, abs=0.1)
    for part in parts:
        expected = read_frames(path, num_frames=4, size=24, time_range=(part.start_s, part.end_s))
        np.testing.assert_array_equal(part.frames, expected)
    starts = sorted(part.start_s for part in parts)
    assert starts[0] == 0.0
    assert starts[-1] >= jump_ms / 1000 - 12


def test_a_jump_by_years_takes_no_memory(tmp_path):
    """Catches lists as long as a file's clock says it is."""
    path = write_video(tmp_path / "years.mkv", 100, times_ms=after_a_jump(YEARS_MS), grain=8)
    parts_of(path, TWELVE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts_of(path, Scales.of([12.0, 6.0, 1.0]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_windows_of_ordinary_videos_stay():
    """Catches windows lost where frames come regularly, at any rate."""
    for fps, length_s in ((25.0, 61.3), (1.0, 100.0), (0.2, 300.0), (240.0, 13.0)):
        times_s = np.arange(int(length_s * fps)) / fps
        for window_s, stride_s in ((12.0, 6.0), (5.0, 5.0), (7.0, 0.3)):
            if window_s >= 1 / fps:
                made = cut_where_frames_are(times_s, length_s, window_s, stride_s)
                assert made == cut_segments(length_s, window_s, stride_s)


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
@pytest.mark.parametrize("lengths", [(50, 50), (30, 50, 40)])
def test_joined_recordings_are_one_after_the_other(tmp_path, suffix, lengths):
    """Catches segments that mix frames of several parts, the length of one part taken for that of all, and entry points
    that disagree."""
    options = {"codec": "mpeg2video"} if suffix == "mpg" else {"bf": "2"}
    path = joined(tmp_path / f"joined.{suffix}", *lengths, **options)
    every = sequential_decode(path)
    times_s = [time_s for time_s, _ in stream_frames(path)]
    assert len(times_s) == len(every) >= sum(lengths) - len(lengths)
    assert (np.diff(times_s) > 0).all()
    assert times_s[-1] == pytest.approx(sum(lengths) / 25, abs=0.4)
    info, parts = parts_of(path, Scales.of(1.0))
    assert info.duration_s == pytest.approx(probe(path, scan=True).duration_s, abs=1e-6)
    assert info.duration_s == pytest.approx(sum(lengths) / 25, abs=0.4)
    for part in parts:
        span = part.start_s, part.end_s
        expected = read_frames(path, num_frames=4, size=24, time_range=span)
        np.testing.assert_array_equal(part.frames, expected, err_msg=f"{span}")
    first, last = (read_frames(path, np.arange, time_range=span) for span in ((0, 1), (info.duration_s - 1, 99)))
    np.testing.assert_array_equal(first, every[: len(first)])
    np.testing.assert_array_equal(last, every[-len(last) :])
    assert 20 <= len(first) <= 30


@pytest.mark.parametrize("set_back_ms", [1000, 700])
def test_packets_whose_time_runs_backwards_make_no_index(tmp_path, set_back_ms):
    """Catches parts woven into each other: an mkv whose clock is set back in mid-file, and frames that do not agree."""
    path = tmp_path / "back.mkv"
    write_video(path, 100, rate=25, bf="0", g="25", grain=8, muxer={"cluster_time_limit": "1000"})
    content = bytearray(path.read_bytes())
    clusters = [
        match.end() for match in re.finditer(rb"\x1f\x43\xb6\x75.{1,8}?\xe7[\x81\x82\x84\x88]", content, re.DOTALL)
    ]
    assert len(clusters) >= 3
    for start in clusters[2:]:
        size = content[start - 1] & 0x0F
        time_ms = int.from_bytes(content[start : start + size])
        content[start : start + size] = (time_ms - set_back_ms).to_bytes(size)
    path.write_bytes(content)
    every = sequential_decode(path)
    index._cache.clear()
    times_s = [time_s for time_s, _ in stream_frames(path)]
    assert len(times_s) == len(every) == 100
    assert (np.diff(times_s) > 0).all()
    assert probe(path).num_frames == 100
    np.testing.assert_array_equal(read_frames(path, np.arange), every)
    np.testing.assert_array_equal(read_frames(path, np.arange, time_range=(0.0, 3.0)), every[:75])


def placed(raw: list[float | None], duration_s: float = 1.0) -> list[float]:
    clock = Clock()
    made = [pair for number, raw_s in enumerate(raw) for pair in clock.place(raw_s, number, duration_s)]
    made += clock.rest()
    assert [number for _, number in made] == list(range(len(raw)))
    return [time_s for time_s, _ in made]


def test_slips_go_between_and_seams_go_on():
    """Catches a whole video shifted by one bad timestamp, and a join that throws time back."""
    assert placed([0, 1, 2, 3]) == [0, 1, 2, 3]
    assert placed([0, 1, 2, 1.9, 4, 5]) == [0, 1, 2, 3, 4, 5]  # a slip
    assert placed([0, 1, 2, 1.8, 1.9, 5]) == [0, 1, 2, 3, 4, 5]  # two
    assert placed([0, 1, 2, 0, 4, 5]) == [0, 1, 2, 3, 4, 5]  # a far one
    assert placed([0, 1, 2, 0, 1, 2, 3]) == [0, 1, 2, 3, 4, 5, 6]  # a seam
    assert placed([0, 1, 2, 0, 1, 0, 1]) == [0, 1, 2, 3, 4, 5, 6]  # two
    assert placed([0, 1, 2, 0]) == [0, 1, 2, 3]  # at the end
    assert placed([5, 6, 5, 6, None, 7]) == [5, 6, 7, 8, 9, 10]
    assert placed([None, None, None]) == [0, 1, 2]
    assert placed([0, 0, 0, 0]) == sorted(set(placed([0, 0, 0, 0])))
    assert placed([0, 0.1, *[0.05] * 40, 9]) == sorted(set(placed([0, 0.1, *[0.05] * 40, 9])))
