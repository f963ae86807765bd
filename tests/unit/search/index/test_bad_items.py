"""One bad file among good ones: whatever it brings about, it is reported, and the others are indexed."""

from __future__ import annotations

import logging
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import clipvip
from clipvip.embedding_sets import encode_manifest, open_embeddings
from clipvip.encode import Encoder
from clipvip.search import Library
from clipvip.search.index import encode_files, scan
from clipvip.search.index.records import Changes, EncodedVideo, Skipped, VideoFile
from clipvip.search.index.scan import Found
from helpers_model import write_model
from helpers_video import write_videos

YEAR_1, YEAR_2300 = -62_135_596_800, 10_413_792_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return clipvip.load(model, device="cpu")


@pytest.fixture
def library(encoder: Encoder, tmp_path: Path) -> Library:
    return Library(tmp_path / "index", encoder, windows_s=2.0)


def stamp(path: Path, seconds: int) -> bool:
    """Set the file's time, where the file system can hold it."""
    try:
        os.utime(path, (seconds, seconds))
    except (OSError, OverflowError):
        return False
    return int(path.stat().st_mtime) == seconds


@pytest.mark.parametrize("seconds", [YEAR_1, YEAR_2300])
def test_files_of_any_date(library, tmp_path, seconds):
    """Catches a date beyond 64 bits of nanoseconds that ends this run and every later one, even of what is no video."""
    videos = write_videos(tmp_path / "videos", 8, 8)
    (videos / "bad.mp4").write_text("no video")
    if not stamp(videos / "1.mp4", seconds) or not stamp(videos / "bad.mp4", seconds):
        pytest.skip("the file system has no such dates")
    summary = library.add(videos)
    assert (summary.videos, [skip.video.name for skip in summary.skipped]) == (2, ["bad.mp4"])
    again = library.add(videos)
    assert (again.videos, again.unchanged) == (0, 2)
    assert library.verify().problems == []
    for video in library.store.videos().values():
        datetime.fromtimestamp(video.mtime_ns / 1e9, UTC)  # as the REST API shows it


@pytest.mark.parametrize("mtime_ns", [-(10**30), -(2**63), 0, 2**63 - 1, 10**30])
def test_the_time_of_a_file_fits_into_an_index(mtime_ns):
    """Catches a time that is cut to 64 bits in one place only, so that the file counts as changed at every run."""
    assert -(2**63) <= VideoFile("/videos", "a.mp4", 1, mtime_ns).mtime_ns < 2**63
    datetime.fromtimestamp(VideoFile("/videos", "a.mp4", 1, mtime_ns).mtime_ns / 1e9, UTC)


@pytest.mark.parametrize(
    ("part", "error"),
    [("make_thumbnail", ZeroDivisionError("integer division")), ("stream_segments", None), ("file_digest", None)],
)
def test_an_unexpected_error_at_one_file(library, tmp_path, monkeypatch, caplog, part, error):
    """Catches a mistake of ours, or of a library, at one file that leaves all others unindexed."""
    videos = write_videos(tmp_path / "videos", 30, 12, 12)
    write = getattr(encode_files, part)

    def fail(first, *args, **options):
        if isinstance(first, np.ndarray) and args[:2] == (64, 48) and len(seen) < 1:
            seen.append(first)
            raise error
        return write(first, *args, **options)

    seen: list[np.ndarray] = []
    if error is None:  # called by name in another process
        shutil.copy(videos / "0.mp4", videos / "raises.mp4")
        call, stream = encode_files.DecodePool.call, encode_files.DecodePool.stream

        def wrapped(method):
            def run(self, function, path, *args, **options):
                if function is write and Path(path).name == "raises.mp4":
                    raise RecursionError("too deep")
                return method(self, function, path, *args, **options)

            return run

        monkeypatch.setattr(encode_files.DecodePool, "call", wrapped(call))
        monkeypatch.setattr(encode_files.DecodePool, "stream", wrapped(stream))
        (videos / "0.mp4").unlink()
    else:
        monkeypatch.setattr(encode_files, part, fail)
    with caplog.at_level(logging.DEBUG, "clipvip"):
        summary = library.add(videos)
    assert summary.videos == 2
    [skipped] = summary.skipped
    name = type(error).__name__ if error else "RecursionError"
    assert skipped.reason.startswith(f"unexpected {name}: ")
    assert skipped.reason.endswith("; please report it")
    assert any(record.exc_info for record in caplog.records)
    [failure] = library.status().failures
    assert f"unexpected {name}" in failure.reason


def test_values_that_fit_no_column(library, tmp_path, encoder):
    """Catches one video with an absurd size or vector that leaves all others unindexed."""
    videos = write_videos(tmp_path / "videos", 8, 8)
    library.add(videos / "0.mp4")
    for number in range(4):
        (videos / f"{number}.mkv").touch()
    found = scan.find_videos([videos])
    vectors = np.eye(1, 16, dtype=np.float32)

    def encode(files, known):
        for number, file in enumerate([*files, *(VideoFile(str(videos), f"{i}.mkv", 1, 1) for i in range(4))]):
            wrong = [
                {}, {"width": 2**40}, {"vectors": vectors[:, :7]}, {"thumbnails": [5]}, {"duration_s": "long"},
            ][number]  # fmt: skip
            fields = {"duration_s": 1.0, "width": 64, "height": 48, "vectors": vectors, "thumbnails": [b"x"]} | wrong
            yield EncodedVideo(file=file, content_hash=file.path, segments=[(0.0, 1.0)], **fields)

    from clipvip.search.index.update import add_files

    summary = add_files(library.store, Found([file for file in found.files if file.path.endswith(".mp4")]), encode)
    assert summary.videos == 1
    assert sorted(skip.video.name for skip in summary.skipped) == ["0.mkv", "1.mkv", "2.mkv", "3.mkv"]
    assert all("do not fit into an index" in skip.reason for skip in summary.skipped)
    assert (library.status().videos, len(library.status().failures)) == (2, 4)
    assert library.verify().sound


def test_reasons_that_are_no_unicode(library, tmp_path):
    """Catches a reason with half a character, as messages about names have it, that ends the run."""
    videos = write_videos(tmp_path / "videos", 8)
    library.add(videos)
    for _ in range(2):
        library.store.apply(Changes(failures=[(VideoFile(str(videos), "b\udcff.mp4", 1, 10**30), "of \udcff")]))
        [failure] = library.status().failures
        assert (failure.path, failure.reason) == ("b\\udcff.mp4", "of \\udcff")


def test_a_folder_whose_name_is_no_unicode(library, tmp_path):
    """Catches a folder name that no table can hold, after which no other folder is indexed."""
    videos = write_videos(tmp_path / "videos", 8)
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    shutil.copytree(videos, odd)
    summary = library.add([odd, videos])
    assert summary.videos == 1
    assert ["not valid UTF-8" in skip.reason for skip in summary.skipped] == [True]
    assert library.roots == [str(videos)]


def test_an_embedding_set_with_odd_paths_and_files(model, encoder, tmp_path, monkeypatch):
    """Catches `..` in a manifest's path, and an unexpected error at one of its files, that end the run."""
    write_videos(tmp_path / "videos", 12, 12)
    rows = [f'{{"clip_id": "{i}", "video": "videos/../videos/{i}.mp4", "captions": ["x"]}}\n' for i in range(2)]
    (tmp_path / "clips.jsonl").write_text("".join(rows))
    encode_manifest(tmp_path / "clips.jsonl", tmp_path / "set", model=str(model), device="cpu")
    probe = encode_files.probe

    def fails(path):
        if path.name == "1.mp4":
            raise ZeroDivisionError("rate")
        return probe(path)

    monkeypatch.setattr(encode_files, "probe", fails)
    library = Library(tmp_path / "index", windows_s=2.0)
    summary = library.add_embeddings(open_embeddings(tmp_path / "set"))
    assert summary.videos == 1
    [skipped] = summary.skipped
    assert isinstance(skipped, Skipped)
    assert skipped.reason == "unexpected ZeroDivisionError: rate; please report it"
