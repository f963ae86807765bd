"""Supervised decoding: what happens in the process is told as any other decoding failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import helpers_jobs as jobs
from clipvip.errors import VideoDecodeError
from clipvip.jobs import DecodePool
from clipvip.jobs.decoding import BYTES_PER_S, PATIENCE_S, measured, time_limit_s
from clipvip.video import probe, read_frames
from helpers_video import write_video


def test_a_crash_costs_one_file(tmp_path: Path) -> None:
    """Catches a crash that ends the pool, or is told without the file's name and a way out."""
    path = write_video(tmp_path / "a.mp4", 20)
    with DecodePool(1) as pool:
        with pytest.raises(
            VideoDecodeError, match=r"a\.mp4: the process that decoded it crashed \(SIGSEGV\); re-encode"
        ):
            pool.call(jobs.crash_on, path)
        assert np.array_equal(pool.call(read_frames, path, [3, 7]), read_frames(path, [3, 7]))
        with pytest.raises(VideoDecodeError, match=r"none\.mp4: no such file"):
            pool.call(read_frames, tmp_path / "none.mp4")
        info, seconds = pool.call(measured, path, 1.0, on_beat=lambda count=1: None)
        assert (info.num_frames, seconds) == (20, pytest.approx(2.0))


def test_sound_that_outlasts_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches windows beyond the last frame, for which a good file would be skipped, and a decode without beats."""
    path = write_video(tmp_path / "a.mp4", 35)
    monkeypatch.setattr("clipvip.jobs.decoding.probe", lambda path: replace(probe(path), duration_s=30.0, exact=False))
    beats: list[int] = []
    assert measured(path, 2.0, beats.append)[1] == pytest.approx(3.5)
    assert beats == [0] * 35


def test_large_files_get_more_time(tmp_path: Path) -> None:
    """Catches a long film that is taken for one that hangs."""
    with (tmp_path / "film.ts").open("wb") as film:
        film.truncate(int(100 * BYTES_PER_S))
    assert time_limit_s(tmp_path / "film.ts") == PATIENCE_S + 100
    assert time_limit_s(tmp_path / "none.ts") == PATIENCE_S
