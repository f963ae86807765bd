"""Damaged files, read in a supervised process: frames or one clear error, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipvip.errors import VideoDecodeError
from clipvip.jobs import Worker
from clipvip.video import read_frames
from helpers_fuzz import (
    DAMAGES,
    SOURCES,
    count_open_files,
    damaged_copy,
    open_and_forget,
    read_damaged_copies,
    write_sources,
)


def test_damaged_files_give_frames_or_an_error(tmp_path: Path) -> None:
    """Catches a crash, a hang, a foreign exception or an array of another shape on damaged files of any container."""
    seen, found = read_damaged_copies(range(50), tmp_path)
    assert found == []
    assert min(seen["frames"], seen["errors"]) >= 5  # else the damage is too small or too large to show anything


def test_copies_are_damaged_and_can_be_made_again(tmp_path: Path) -> None:
    """Catches a fuzz test that reads sound files, or whose findings are gone with the test run."""
    sources = write_sources(tmp_path / "sources")
    contents = {source.read_bytes() for source in sources}
    (tmp_path / "again").mkdir()
    for number in range(len(sources) * len(DAMAGES)):
        copy = damaged_copy(number, sources, tmp_path)
        assert copy.read_bytes() == damaged_copy(number, sources, tmp_path / "again").read_bytes()
        assert copy.read_bytes() not in contents
    assert len(list(tmp_path.glob("*_*"))) == len(sources) * len(DAMAGES)
    assert len(sources) >= len(SOURCES) - 1  # all but HEVC, for which not every build has an encoder


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files through /proc")
def test_the_count_of_open_files_would_show_a_leak(tmp_path: Path) -> None:
    """Catches handles that stay open after an error, and a count that is not of the process that reads."""
    (tmp_path / "text.mp4").write_bytes(b"text" * 99)
    with Worker() as worker:
        before = worker.call(count_open_files, timeout_s=60.0)
        with pytest.raises(VideoDecodeError):
            worker.call(read_frames, tmp_path / "text.mp4", timeout_s=60.0)
        assert worker.call(count_open_files, timeout_s=60.0) == before
        worker.call(open_and_forget, tmp_path / "text.mp4", timeout_s=60.0)
        assert worker.call(count_open_files, timeout_s=60.0) == before + 1
