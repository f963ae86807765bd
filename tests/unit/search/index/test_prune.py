"""Videos that are missing because their drive is: pruning leaves them in the index."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import clipvip
from clipvip.encode import Encoder
from clipvip.search import Library
from clipvip.serve.indexing import _summary
from helpers_cli import run_here
from helpers_model import write_model
from helpers_video import write_videos


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return clipvip.load(write_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture
def library(encoder: Encoder, tmp_path: Path) -> Library:
    """A drive with four videos, one of them in a folder, and a folder with one."""
    write_videos(tmp_path / "drive", 8, 9, 10, 11)
    move(tmp_path / "drive" / "3.mp4", tmp_path / "drive" / "sub")
    write_videos(tmp_path / "other", 13)
    library = Library(tmp_path / "index", encoder, windows_s=2.0)
    library.add([tmp_path / "drive", tmp_path / "other"])
    return library


def move(path: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    path.rename(folder / path.name)


def unmount(drive: Path) -> None:
    """As if the drive was not mounted, and its mount point had a file of its own."""
    shutil.rmtree(drive)
    drive.mkdir()
    (drive / ".DS_Store").write_text("stray")


def test_a_drive_that_is_not_mounted_keeps_its_videos(library, tmp_path, capsys):
    """Catches a library that is thrown away because a mount point holds one stray file."""
    unmount(tmp_path / "drive")
    summary = library.prune()
    assert (summary.removed, library.status().videos) == (0, 5)
    [skipped] = summary.skipped
    assert skipped.video == tmp_path / "drive"
    assert skipped.reason == (
        "4 of its 4 videos are missing; maybe a drive is not mounted; nothing of it is taken out "
        "(clipvip library prune --force does)"
    )
    assert _summary(summary)["skipped"] == [{"path": str(tmp_path / "drive"), "reason": skipped.reason}]
    index = ("index", "--index", library.uri, "--prune")
    assert run_here(*index) == 0
    assert "4 of its 4 videos are missing" in capsys.readouterr().err
    assert run_here("index", "--index", library.uri, "--force") == 2
    assert run_here(*index, "--force") == 0
    assert "4 removed" in capsys.readouterr().out
    assert Library(library.uri).status().videos == 1


@pytest.mark.parametrize(("gone", "removed"), [(1, 1), (2, 2), (3, 0), (4, 0)])
def test_more_than_half(library, tmp_path, gone, removed):
    """Catches a rule that keeps what a user has deleted, or takes out what most probably is not deleted."""
    for name in ("0.mp4", "1.mp4", "2.mp4", "sub/3.mp4")[:gone]:
        (tmp_path / "drive" / name).unlink()
    (tmp_path / "drive" / "sub" / "note.txt").write_text("")
    assert library.prune().removed == removed
    assert library.prune(force=True).removed == gone - removed


def test_a_library_of_one_video(library, tmp_path):
    """Catches a rule that looks only at large libraries."""
    (tmp_path / "other" / "0.mp4").rename(tmp_path / "elsewhere.mp4")
    (tmp_path / "other" / "stray").write_text("")
    assert library.prune().removed == 0
    assert library.prune(force=True).removed == 1


def test_a_drive_within_a_folder(library, tmp_path):
    """Catches videos of a drive that is mounted below an indexed folder: its mount point is an empty folder.

    One video that was alone in its folder is rather deleted.
    """
    sub = tmp_path / "drive" / "sub"
    move(tmp_path / "drive" / "2.mp4", sub)
    library.add()
    for path in sub.iterdir():
        path.unlink()
    summary = library.prune()
    assert summary.removed == 0
    [skipped] = summary.skipped
    assert skipped.video == sub
    assert skipped.reason.startswith("the folder is empty, its 2 videos are missing; maybe a drive is not mounted")
    sub.rmdir()
    assert library.prune().removed == 2
    move(tmp_path / "drive" / "0.mp4", tmp_path / "drive" / "alone")
    write_videos(tmp_path / "drive" / "more", 14, 15)
    library.add()
    (tmp_path / "drive" / "alone" / "0.mp4").unlink()
    assert library.prune().removed == 1
