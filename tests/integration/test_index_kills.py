"""Indexing that is killed, that meets another process, and that runs out of space."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import clipvip
from clipvip.errors import SearchIndexError
from clipvip.search import Library
from helpers_index import OPTIONS, assert_kills_cost_nothing, assert_same, start, write_library
from helpers_model import write_model
from helpers_video import write_video


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("killed")
    write_model(place / "model")
    write_library(place / "videos", 4)
    return place


def test_kills_cost_nothing(place: Path, tmp_path: Path) -> None:
    """Catches rows lost or doubled by a kill, files half indexed, and work that cannot go on."""
    assert_kills_cost_nothing(place / "videos", place / "model", tmp_path, num_kills=5, seed=0)


def test_two_processes_at_once(place: Path, tmp_path: Path) -> None:
    """Catches rows that are there twice, commits lost to the other process, and an index made by both."""
    encoder = clipvip.load(place / "model", device="cpu")
    alone = Library(tmp_path / "alone", encoder, **OPTIONS)
    alone.add(place / "videos")
    both = [start(tmp_path / "both", place / "model", [place / "videos"]) for _ in range(2)]
    for process, pipe in both:
        assert pipe.recv() == "done"
        process.join()
    assert_same(Library(tmp_path / "both"), alone)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk(place: Path, small_disk: Path, tmp_path: Path) -> None:
    """Catches a traceback, an index that is damaged by it, and a run that cannot go on when there is space again."""
    encoder = clipvip.load(place / "model", device="cpu")
    options = {"windows_s": 0.2}
    library = Library(small_disk / "index", encoder, **options)
    library.add(place / "videos" / "0.mp4")
    before = library.status()
    folder = tmp_path / "long"
    folder.mkdir()
    write_video(folder / "long.mp4", 300, grain=4)
    with pytest.raises(SearchIndexError, match=r"index: cannot be written \(no space left on the device; free some"):
        library.add(folder)
    after = Library(small_disk / "index", encoder)
    assert (after.status().videos, after.status().segments) == (before.videos, before.segments)
    assert len(after.search("a dog", 3)) == 3
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert after.add(folder).videos == 1
    assert after.verify().sound
