"""Damaged files: what decodes is indexed, and the file is reported."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import clipvip
from clipvip.search import Library
from clipvip.search.index import encode_files
from clipvip.search.index.records import Changes, EncodedVideo, VideoFile
from clipvip.serve.indexing import _summary
from helpers_cli import run_here
from helpers_model import write_model
from helpers_video import write_videos

DAMAGE = "damaged: decoding breaks off after 5 frames (0.5 s)"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """An index whose reader takes all files called damaged*.mp4 for damaged ones."""
    encode = encode_files.encode_files

    def encode_some(*args, **options):
        for outcome in encode(*args, **options):
            if isinstance(outcome, EncodedVideo) and outcome.file.path.startswith("damaged"):
                outcome = replace(outcome, damage=DAMAGE)
            yield outcome

    monkeypatch.setattr(encode_files, "encode_files", encode_some)
    write_videos(tmp_path / "videos", 8, 12)
    (tmp_path / "videos" / "1.mp4").rename(tmp_path / "videos" / "damaged.mp4")
    model = clipvip.load(write_model(tmp_path / "model"), device="cpu")
    return Library(tmp_path / "index", model, windows_s=2.0)


def failures(library: Library) -> list[tuple[str, str, bool]]:
    return [(failure.path, failure.reason, failure.indexed) for failure in library.status().failures]


def test_a_damaged_file_is_indexed_and_reported(library, tmp_path):
    """Catches a damaged file that is left out, is not reported, or is decoded again at every run."""
    videos = tmp_path / "videos"
    summary = library.add(videos)
    assert (summary.videos, summary.skipped) == (2, [])
    assert [(file.video, file.reason) for file in summary.damaged] == [(videos / "damaged.mp4", DAMAGE)]
    assert json.loads(json.dumps(_summary(summary)))["summary"]["damaged"] == 1
    assert failures(library) == [("damaged.mp4", DAMAGE, True)]
    again = library.add(videos)
    assert (again.unchanged, again.damaged) == (2, [])
    assert failures(library) == [("damaged.mp4", DAMAGE, True)]


def test_damage_stays_with_the_content(library, tmp_path):
    """Catches a copied, moved, touched or repaired file that counts as whole, or as damaged, because of its name."""
    videos = tmp_path / "videos"
    library.add(videos)
    shutil.copyfile(videos / "damaged.mp4", videos / "copy.mp4")
    summary = library.add(videos)
    assert (summary.copied, [file.video.name for file in summary.damaged]) == (1, ["copy.mp4"])
    (videos / "damaged.mp4").rename(videos / "moved.mp4")
    (videos / "copy.mp4").touch()
    summary = library.add(videos)
    assert (summary.moved, summary.unchanged) == (1, 2)
    assert failures(library) == [("copy.mp4", DAMAGE, True), ("moved.mp4", DAMAGE, True)]
    shutil.copyfile(videos / "0.mp4", videos / "moved.mp4")
    library.add(videos)
    assert failures(library) == [("copy.mp4", DAMAGE, True)]
    (videos / "copy.mp4").unlink()
    library.add(videos)
    assert failures(library) == []


def test_a_file_that_can_be_read_again_is_no_failure(library, tmp_path):
    """Catches a reason that stays for ever: an indexed file that could not be looked at once, and is as it was."""
    videos = tmp_path / "videos"
    library.add(videos)
    [video] = [video for video in library.store.videos().values() if video.path == "0.mp4"]
    library.store.apply(Changes(failures=[(VideoFile(video.root, video.path), "input/output error")]))
    assert failures(library)[0] == ("0.mp4", "input/output error", False)
    assert library.add(videos).unchanged == 2
    assert failures(library) == [("damaged.mp4", DAMAGE, True)]


def test_damaged_files_on_the_command_line(library, tmp_path, capsys, monkeypatch):
    """Catches damage that only the index knows of, and a strict run that passes over it."""
    monkeypatch.chdir(tmp_path)
    index = ("index", "videos", "--model", "model", "--index", "index", "--window", "2")
    assert run_here(*index, "--strict") == 1
    out, err = capsys.readouterr()
    damaged = tmp_path / "videos" / "damaged.mp4"
    assert err == f"damaged {damaged}: {DAMAGE} (indexed as far as it can be read)\n"
    assert "0 skipped, 1 damaged; index: index" in out
    assert run_here("index", "--index", "index", "--status") == 0
    assert f"damaged {damaged}: {DAMAGE}\n" in capsys.readouterr().out
    assert run_here("index", "--index", "index", "--strict") == 0
    capsys.readouterr()
    shutil.rmtree("index")
    assert run_here(*index, "--json") == 0
    assert json.loads(capsys.readouterr().out)["damaged"] == [{"video": str(damaged), "reason": DAMAGE}]
