"""Files that are there as a whole or not at all, whatever they are called."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from clipvip.files import open_beneath, replacing


@pytest.mark.parametrize("name", ["a.txt", "x" * 247, "x" * 248, "x" * 251 + ".txt", "😀" * 62 + ".mp4", "é" * 127])
def test_replacing_a_file_with_a_name_of_any_length(tmp_path, name):
    """Catches a temporary name that is longer than file systems take, and one that two files share."""
    path, other = tmp_path / name, tmp_path / ("y" + name[1:])
    with replacing(path) as temporary, replacing(other) as beside:
        assert temporary != beside
        assert temporary.parent == tmp_path
        temporary.write_text("new")
        beside.write_text("other")
    assert (path.read_text(), other.read_text()) == ("new", "other")
    assert sorted(os.listdir(tmp_path)) == sorted([name, other.name])
    with suppress(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "new"
    assert len(os.listdir(tmp_path)) == 2


WRITER = """
import sys, time
from pathlib import Path
from clipvip.files import replacing
folder, letter, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with replacing(folder / "out.txt") as temporary, temporary.open("w") as file:
    file.write(letter * 5000)
    file.flush()
    (folder / f"{letter}.ready").touch()
    while not (folder / f"{other}.ready").exists():
        time.sleep(0.01)
    file.write(letter * 5000)
"""


def start_writer(folder, letter, other):
    """A process that writes half a file, and the other half once the other one has begun."""
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), letter, other])


def test_two_processes_that_write_one_file_at_once(tmp_path):
    """Catches B9: a temporary name that both share, so that one moves or removes what the other has half written."""
    writers = [start_writer(tmp_path, "a", "b"), start_writer(tmp_path, "b", "a")]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert (tmp_path / "out.txt").read_text() in ("a" * 10000, "b" * 10000)
    assert sorted(os.listdir(tmp_path)) == ["a.ready", "b.ready", "out.txt"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    """Catches folders that fill up with halves of files, and a half removed while its process still writes."""
    killed, alive = start_writer(tmp_path, "a", "none"), start_writer(tmp_path, "b", "none")
    while not ((tmp_path / "a.ready").exists() and (tmp_path / "b.ready").exists()):
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    (tmp_path / "mine.partial").write_text("of another program")
    try:
        code = "import sys; from pathlib import Path; from clipvip.files import replace_text\n"
        code += "replace_text(Path(sys.argv[1]), 'text')"
        command = [sys.executable, "-c", code, str(tmp_path / "other.txt")]
        subprocess.run(command, check=True)
        assert len(list(tmp_path.glob("out.txt.*.partial"))) == 2, "too young to be given up"
        for path in tmp_path.glob("*.partial"):
            os.utime(path, (0, 0))
        subprocess.run(command, check=True)
        [left] = tmp_path.glob("out.txt.*.partial")
        assert f"-{alive.pid}-" in left.name
        assert (tmp_path / "mine.partial").exists()
    finally:
        alive.kill()
        alive.wait()


def test_a_file_is_opened_beneath_its_folder_only(tmp_path):
    """Catches links, dots and names that lead out of a folder, and pipes that would block."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "inner").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "inner" / "file").write_text("file")
    (root / "link").symlink_to("inner/file")
    (root / "folder").symlink_to("inner")
    (root / "again").symlink_to(root / "folder" / "file")
    for path in ("inner/file", "link", "folder/file", "again", "inner/../link", root / "link"):
        with open_beneath(root, path) as file:
            assert file.read() == b"file"
            assert file.name == os.path.join(root, path)
    (tmp_path / "alias").symlink_to(root)
    with open_beneath(tmp_path / "alias", "link") as file:
        assert file.read() == b"file"
    (root / "out").symlink_to(outside / "secret")
    (root / "outer").symlink_to(outside)
    (root / "circle").symlink_to("circle")
    (root / "nowhere").symlink_to("nothing")
    os.mkfifo(root / "pipe")
    for path in (
        "out",
        "outer/secret",
        "../outside/secret",
        outside / "secret",
        "circle",
        "nowhere",
        "pipe",
        "inner",
        ".",
    ):
        with pytest.raises(FileNotFoundError):
            open_beneath(root, path)


def test_a_link_that_appears_after_the_check_is_not_followed(tmp_path, monkeypatch):
    """Catches the moment between looking where a name leads and opening it, for the file and for its folder."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "inner", outside):
        folder.mkdir(parents=True)
        (folder / "file").write_text(folder.name)
    resolve = os.path.realpath

    def swap_after(path, **options):
        found = resolve(path, **options)
        if found.endswith("file"):
            (root / "inner").rename(root / "kept")
            (root / "inner").symlink_to(outside)
        return found

    monkeypatch.setattr(os.path, "realpath", swap_after)
    with pytest.raises(FileNotFoundError):
        open_beneath(root, "inner/file")
