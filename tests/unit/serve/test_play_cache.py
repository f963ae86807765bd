"""Copies of videos, within their limit."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from clipvip.serve.play_cache import PlayCache


def write(size: int):
    """How a copy of `size` bytes is made."""

    def make(target: Path) -> None:
        target.write_bytes(b"x" * size)

    return make


def test_a_copy_is_made_once_and_anew_when_its_source_changes(tmp_path):
    """Catches a film that is transcoded at every range, and one that plays as it was before it was cut."""
    film, made = ("film", 1), []

    def make(target: Path) -> None:
        made.append(target.name)
        target.write_text(f"copy {len(made)}")

    cache = PlayCache(tmp_path / "copies", 1000)
    assert cache.find(film) is None
    threads = [threading.Thread(target=cache.find_or_make, args=(film, make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert cache.find(film).read_text() == "copy 1"
    assert cache.find(("film", 2)) is None
    assert cache.find_or_make(("film", 2), make).read_text() == "copy 2"


def test_what_fails_leaves_nothing(tmp_path):
    """Catches half a copy that is played as a whole one."""
    film = ("film", 1)

    def fail(target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError("broken")

    cache = PlayCache(tmp_path / "copies", 1000)
    with pytest.raises(OSError, match="broken"):
        cache.find_or_make(film, fail)
    assert cache.find(film) is None
    assert list((tmp_path / "copies").iterdir()) == []


def test_the_copies_stay_within_their_limit(tmp_path):
    """Catches a disk that fills up, and the copy that is being watched deleted for one nobody looks at."""
    cache = PlayCache(tmp_path / "copies", 1000)
    films = [(f"film {i}", i) for i in range(4)]
    for i, film in enumerate(films[:3]):
        copy = cache.find_or_make(film, write(300))
        os.utime(copy, (i, i))
    left = tmp_path / "copies" / "left.mp4.partial"  # by a server that was killed
    left.write_bytes(b"x" * 5000)
    os.utime(left, (0, 0))
    assert cache.find(films[0]) is not None  # looked at: now the newest
    cache.find_or_make(films[3], write(300))
    assert [cache.find(film) is not None for film in films] == [True, False, True, True]
    assert not left.exists()
    made: list[int] = []

    def grow(target: Path) -> None:
        for size in (400, 800):
            target.write_bytes(b"x" * size)
            cache.make_room(target)
            made.append(sum(path.stat().st_size for path in (tmp_path / "copies").iterdir()))

    cache.find_or_make(("growing", 1), grow)
    assert made == [1000, 800]  # the limit holds while a copy is made, too
    large = cache.find_or_make(("large", 1), write(5000))
    assert [path for path in (tmp_path / "copies").iterdir() if path.suffix == ".mp4"] == [large]
