"""What a second run costs and keeps: moved, copied, touched and swapped files, folders within folders, models."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import clipvip
from clipvip.encode import Encoder
from clipvip.errors import UsageError
from clipvip.search import Library
from clipvip.video import Scales
from helpers_index import contents
from helpers_model import write_model
from helpers_video import write_video


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return clipvip.load(write_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "inner").mkdir()
    for number, name in enumerate(["a.mp4", "b.mp4", "inner/c.mp4"]):
        write_video(folder / name, 30 + 10 * number, g=str(5 + number))
    return folder


@pytest.fixture
def videos(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "videos")


@pytest.fixture
def library(encoder: Encoder, tmp_path: Path) -> Library:
    return Library(tmp_path / "index", encoder, windows_s=2.0)


def vectors_of(library: Library) -> dict[str, np.ndarray]:
    """By path, and checked: every segment has its thumbnail, and what the model makes of these seconds of the file."""
    rows, vectors, thumbnails, _ = contents(library)
    assert thumbnails == [row["segment_id"] for row in rows]
    parts = [(Path(row["root"], row["path"]), row["start_s"], row["end_s"]) for row in rows]
    np.testing.assert_allclose(vectors, library.encoder.encode_videos(parts), atol=1e-5)
    paths = [row["path"] for row in rows]
    return {path: vectors[[other == path for other in paths]] for path in paths}


def encodes_nothing(monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a file that is known was encoded again")

    monkeypatch.setattr(encoder, "encode_pixels", refuse)


def counts(summary) -> dict[str, int]:
    names = ("videos", "unchanged", "moved", "copied", "removed", "missing")
    return {name: getattr(summary, name) for name in names if getattr(summary, name)}


def test_moved_copied_and_touched_files_keep_their_vectors(videos, library, encoder, monkeypatch):
    """Catches a library that is encoded again because its folders were renamed, or restored from a backup."""
    assert counts(library.add(videos)) == {"videos": 3}
    before = vectors_of(library)
    (videos / "new name").mkdir()
    shutil.move(videos / "a.mp4", videos / "new name" / "ä\n'\".mp4")
    shutil.copy(videos / "b.mp4", videos / "z.mp4")
    os.utime(videos / "inner" / "c.mp4", (1, 1))
    with monkeypatch.context() as patched:
        encodes_nothing(patched, encoder)
        assert counts(library.add(videos)) == {"unchanged": 2, "moved": 1, "copied": 1}
        assert counts(library.add(videos)) == {"unchanged": 4}
    after = vectors_of(library)
    assert after.keys() == {"new name/ä\n'\".mp4", "b.mp4", "z.mp4", "inner/c.mp4"}
    np.testing.assert_array_equal(after["new name/ä\n'\".mp4"], before["a.mp4"])
    np.testing.assert_array_equal(after["z.mp4"], before["b.mp4"])


def test_swapped_names(videos, library, encoder, monkeypatch):
    """Catches vectors that stay with a name whose file is another one now."""
    library.add(videos)
    before = vectors_of(library)
    shutil.move(videos / "a.mp4", videos / "x")
    shutil.move(videos / "b.mp4", videos / "a.mp4")
    shutil.move(videos / "x", videos / "b.mp4")
    with monkeypatch.context() as patched:
        encodes_nothing(patched, encoder)
        library.add(videos)
    after = vectors_of(library)
    np.testing.assert_array_equal(after["a.mp4"], before["b.mp4"])
    np.testing.assert_array_equal(after["b.mp4"], before["a.mp4"])


def test_new_files_with_the_same_content_are_encoded_once(videos, library, encoder, monkeypatch):
    """Catches copies that cost as much as originals, and empty files of which only one is told."""
    for i in range(5):
        shutil.copy(videos / "a.mp4", videos / f"copy{i}.mp4")
        (videos / f"empty{i}.mp4").touch()
    encoded = []
    encode = encoder.encode_pixels
    monkeypatch.setattr(encoder, "encode_pixels", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    summary = library.add(videos)
    assert counts(summary) == {"videos": 3, "copied": 5}
    assert sum(encoded) == summary.segments
    assert len(summary.skipped) == len(library.status().failures) == 5
    assert len(vectors_of(library)) == 8


def test_another_process_is_quicker_with_the_same_files(videos, library, encoder):
    """Catches a copy that gets the segments of its source twice: those just encoded, and those the other has stored."""
    shutil.copy(videos / "b.mp4", videos / "z.mp4")
    other = Library(library.uri, encoder, windows_s=2.0)

    def in_between(done: int, total: int) -> None:
        if done == 1:
            other.add(videos)

    library.add(videos, on_progress=in_between)
    rows, *_ = contents(library)
    segment_ids = [row["segment_id"] for row in rows]
    assert len(segment_ids) == len(set(segment_ids))
    assert set(vectors_of(library)) == {"a.mp4", "b.mp4", "inner/c.mp4", "z.mp4"}
    assert library.verify(repair=False).sound


def test_what_is_gone_goes_when_asked(videos, library):
    """Catches answers whose file is gone, and a drive that is not mounted taken for one that was emptied."""
    (videos / "bad.mp4").write_text("no video")
    library.add(videos)
    (videos / "a.mp4").unlink()
    (videos / "bad.mp4").unlink()
    assert counts(library.add(videos)) == {"unchanged": 2, "missing": 1}
    assert library.status().failures == ()
    assert counts(library.prune()) == {"removed": 1}
    assert vectors_of(library).keys() == {"b.mp4", "inner/c.mp4"}
    assert counts(library.add(videos)) == {"unchanged": 2}
    shutil.move(videos, videos.parent / "elsewhere")
    for state in (lambda: None, videos.mkdir):
        state()
        pruned = library.prune()
        assert pruned.removed == 0
        [skipped] = pruned.skipped
        assert (skipped.video, "not mounted" in skipped.reason) == (videos, True)
    [skipped] = library.add().skipped
    assert (skipped.video, library.status().videos) == (videos, 2)
    (videos / "notes.txt").touch()  # the folder is there, and really has no videos left
    assert counts(library.add()) == {}
    (videos / "notes.txt").unlink()
    with pytest.raises(UsageError, match="not a folder of"):
        library.forget(videos / "inner")
    assert library.forget(videos).removed == 2
    assert (library.roots, library.status().videos) == ([], 0)


def test_folders_within_folders_bring_no_file_twice(videos, library):
    """Catches videos that answer twice because their folder was added by itself first."""
    library.add(videos / "inner")
    assert counts(library.add([videos, videos / "inner"])) == {"videos": 2, "unchanged": 1}
    assert counts(library.add(videos / "inner")) == {"unchanged": 1}
    assert library.roots == sorted([str(videos), str(videos / "inner")])
    assert counts(library.add()) == {"unchanged": 3}
    (videos / "other").mkdir()
    assert len(vectors_of(library)) == 3


def test_a_single_file_does_not_bring_its_folder(videos, library):
    """Catches a whole home folder that is indexed at the second run, because one file of it was at the first."""
    library.add(videos / "a.mp4")
    assert library.roots == []
    assert counts(library.add()) == {"unchanged": 1}
    assert [root.root for root in library.status().roots] == [str(videos)]


def test_a_file_that_is_replaced_while_it_is_read(videos, library, monkeypatch):
    """Catches segments of two contents under one name, and an endless try at a file that never rests."""
    from clipvip.search.index import encode_files

    make = encode_files.make_thumbnail
    left = 1

    def replacing(frame, width, height):
        nonlocal left
        if left:
            left -= 1
            write_video(videos.parent / "other.mp4", 50 + left % 7)
            os.replace(videos.parent / "other.mp4", videos / "inner" / "c.mp4")
        return make(frame, width, height)

    monkeypatch.setattr(encode_files, "make_thumbnail", replacing)
    assert counts(library.add(videos / "inner")) == {"videos": 1}
    assert vectors_of(library).keys() == {"c.mp4"}
    left = 1000
    write_video(videos / "inner" / "c.mp4", 20)
    summary = library.add(videos / "inner")
    assert [skipped.reason for skipped in summary.skipped] == [
        "is written to while it is read; index again when it is finished"
    ]
    assert library.status().videos == 0


def test_a_rebuild_with_another_model_or_other_windows(videos, library, tmp_path):
    """Catches vectors of two models in one index, folders that are forgotten, and a rebuild that never is complete."""
    library.add(videos)
    other = Library(library.uri, clipvip.load(write_model(tmp_path / "other", seed=1), device="cpu"))
    assert counts(other.rebuild()) == {"videos": 3}
    assert (other.roots, other.settings.scales) == ([str(videos)], Scales.of(2.0))
    assert len(vectors_of(other)) == 3
    assert counts(other.rebuild()) == {"unchanged": 3}
    both = Library(library.uri, other.encoder, windows_s=[1.0, 3.0])
    with pytest.raises(UsageError, match="clipvip library rebuild"):
        both.add(videos)
    assert counts(both.rebuild()) == {"videos": 3}
    expected = sum(len(Scales.of([3.0, 1.0]).cut(duration_s)) for duration_s in (3.0, 4.0, 5.0))
    assert both.status().segments == expected
    assert len(vectors_of(both)) == 3


def test_windows_are_as_long_as_the_clips_of_the_training(videos, encoder, tmp_path, monkeypatch):
    """Catches a model of short clips that is shown long ones, because nobody passed a number."""
    monkeypatch.setattr(encoder.model.config, "clip_duration_s", 1.5)
    library = Library(tmp_path / "index", encoder)
    library.add(videos)
    assert library.settings.scales == Scales.of(1.5)


def test_shots(videos, encoder, tmp_path):
    """Catches a choice that is not kept with the index, and vectors that are not those of the shot."""
    library = Library(tmp_path / "index", encoder, windows_s=2.0, shots=True)
    library.add(videos)
    assert library.settings.shots
    assert len(vectors_of(library)) == 3
    again = Library(tmp_path / "index", encoder)
    assert counts(again.add()) == {"unchanged": 3}
