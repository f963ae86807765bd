"""Supervised decoding: what happens in the process is told as any other decoding failure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import helpers_jobs as jobs
from clipvip.errors import VideoDecodeError
from clipvip.jobs import DecodePool, time_limit_s
from clipvip.jobs.pool import BYTES_PER_S, PATIENCE_S
from clipvip.video import Scales, read_frames, stream_segments
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
        with pytest.raises(VideoDecodeError, match=r"a\.mp4: the process that decoded it crashed"):
            list(pool.stream(jobs.count_and_crash, path))
        info, *parts = pool.stream(stream_segments, path, Scales.of(1.0), num_frames=3)
        assert info.num_frames == 20
        for part in parts:
            span = part.start_s, part.end_s
            assert np.array_equal(part.frames, read_frames(path, num_frames=3, time_range=span))


def test_large_files_get_more_time(tmp_path: Path) -> None:
    """Catches a long film that is taken for one that hangs."""
    with (tmp_path / "film.ts").open("wb") as film:
        film.truncate(int(100 * BYTES_PER_S))
    assert time_limit_s(tmp_path / "film.ts") == PATIENCE_S + 100
    assert time_limit_s(tmp_path / "none.ts") == PATIENCE_S
