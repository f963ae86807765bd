"""What is left out of a folder: system folders, ignore files, patterns, files that are videos only by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import clipvip
from clipvip.encode import Encoder
from clipvip.errors import ClipVipError, UsageError
from clipvip.search import Library
from clipvip.search.index.scan import IgnoreRules, find_videos, is_something_else
from helpers_cli import run_here
from helpers_model import write_model
from helpers_video import write_video, write_videos


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return clipvip.load(model, device="cpu")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0")
    return folder


def paths(folder: Path, *dirs: str, exclude: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """What is found below a folder, and what is left out."""
    found = find_videos([folder / name for name in dirs or (".",)], exclude=exclude)
    assert found.skipped == []
    files = sorted(file.absolute.relative_to(folder).as_posix() for file in found.files)
    return files, sorted(path.relative_to(folder).as_posix() for path in found.left_out)


SYSTEM = ["@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information", "#snapshot", "@Recycle",
          "@Recently-Snapshot", "__MACOSX"]  # fmt: skip


def test_system_folders(tmp_path):
    """Catches a NAS whose thumbnails, snapshots and deleted files answer searches."""
    names = [f"a/{name}/b/x.mp4" for name in (*SYSTEM, "$Recycle.bin")]
    touch(tmp_path, "a.mp4", "a/lost/b.mp4", "a/#recycle.mp4", *names)
    assert paths(tmp_path) == (
        ["a.mp4", "a/#recycle.mp4", "a/lost/b.mp4"],
        sorted(f"a/{name}" for name in (*SYSTEM, "$Recycle.bin")),
    )
    assert paths(tmp_path, "a/@eaDir", "a/#recycle/b/x.mp4")[0] == ["a/#recycle/b/x.mp4", "a/@eaDir/b/x.mp4"]
    files, left_out = paths(tmp_path, ".", "a/@eaDir")
    assert "a/@eaDir/b/x.mp4" in files
    assert "a/@eaDir" not in left_out


IGNORE_FILES = {
    ".clipvipignore": "# a comment\n*.tmp.mp4\n/top.mp4\nraw/\ncache/**/old\n!keep.tmp.mp4\n!lost+found/\n"
    "sp\\ ace.mp4\n\\#1.mp4\n",
    "sub/.clipvipignore": "!x.tmp.mp4\n/deep/*.mp4\n!/deep/yes.mp4\n",
    "sub/deep/.clipvipignore": "\ufeffyes.mp4\n",
}
FILES = [
    "a.mp4", "a.tmp.mp4", "keep.tmp.mp4", "top.mp4", "sub/top.mp4", "raw/b.mp4", "sub/raw/c.mp4", "raw.mp4",
    "cache/old/a.mp4", "cache/x/y/old/a.mp4", "cache/x/new/a.mp4", "lost+found/a.mp4", "sp ace.mp4", "#1.mp4",
    "sub/x.tmp.mp4", "sub/y.tmp.mp4", "sub/deep/no.mp4", "sub/deep/yes.mp4", "sub/deep/er/no.mp4",
    "raw/keep.tmp.mp4",
]  # fmt: skip


@pytest.mark.parametrize("exclude", [(), ("*.mp4", "!sub/"), ("/sub/*", "!/sub/deep", "!keep.tmp.mp4"), ("cache",)])
def test_patterns_are_those_of_git(tmp_path, exclude):
    """Catches negation, nesting, anchors, escapes and precedence other than those of a .gitignore. Oracle: git."""
    touch(tmp_path, *FILES)
    for name, text in IGNORE_FILES.items():
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    arguments = [f"--exclude={pattern}" for pattern in exclude]
    command = ["git", "-c", "core.quotePath=false", "ls-files", "-z", "--others", *arguments]
    done = subprocess.run(
        [*command, "--exclude-per-directory=.clipvipignore"], cwd=tmp_path, check=True, capture_output=True
    )
    expected = {name for name in done.stdout.decode().split("\0") if name.endswith(".mp4")}
    files, left_out = paths(tmp_path, exclude=exclude)
    assert set(files) == expected
    rules = IgnoreRules(str(tmp_path), exclude)
    assert {name for name in FILES if not rules.leaves_out(name)} == expected
    assert left_out
    assert not set(left_out) & expected


def test_malformed_patterns(tmp_path):
    """Catches a line of an ignore file that ends the run, or makes the other lines count for nothing."""
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / ".clipvipignore").write_text("!\na.mp4\n")
    found = find_videos([tmp_path])
    assert [file.path for file in found.files] == ["b.mp4"]
    [skipped] = found.skipped
    assert (skipped.video.name, "line 1" in skipped.reason) == (".clipvipignore", True)
    with pytest.raises(UsageError, match="no gitignore pattern"):
        find_videos([tmp_path], exclude=["!"])


def test_names_in_either_form_of_unicode(tmp_path):
    """Catches a pattern typed with one code point for é that does not match the two that a Mac stores."""
    touch(tmp_path, "cafe\u0301/a.mp4", "b.mp4")
    assert paths(tmp_path, exclude=("caf\u00e9",)) == (["b.mp4"], ["cafe\u0301"])


def test_what_becomes_excluded_stays_until_it_is_pruned(tmp_path, encoder):
    """Catches rows that vanish because of a typing error in a pattern, and ones that cannot be got rid of."""
    videos = write_videos(tmp_path / "videos", 8, 9)
    for name in ("@eaDir", "raw"):
        write_videos(videos / name, 10 if name == "raw" else 11)
    (videos / "raw" / "bad.mp4").write_text("no video")
    alone = write_video(tmp_path / "raw.mp4", 12)
    library = Library(tmp_path / "index", encoder, windows_s=2.0)
    summary = library.add([videos, videos / "@eaDir", alone])
    assert (summary.videos, summary.excluded, len(library.status().failures)) == (5, 0, 1)
    summary = library.add(videos, exclude=["raw*"])
    assert (summary.unchanged, summary.excluded, summary.missing, summary.skipped) == (2, 2, 0, [])
    assert (library.status().videos, library.status().failures) == (5, ())
    assert library.prune().removed == 1  # of the system folder
    assert library.prune(exclude=["raw*"]).removed == 1
    left = {video.path for video in library.store.videos().values()}
    assert left == {"0.mp4", "1.mp4", "raw.mp4"}  # one that was named itself stays


def test_excluded_files_on_the_command_line(tmp_path, model, capsys, monkeypatch):
    """Catches an option that is accepted and ignored, and files that are left out in silence."""
    monkeypatch.chdir(tmp_path)
    write_videos(tmp_path / "lib", 8)
    write_videos(tmp_path / "lib" / "raw", 9, 10)
    write_videos(tmp_path / "lib" / "@eaDir", 11)
    write_video(tmp_path / "lib" / "x.tmp.mp4", 12)
    index = ("index", "lib", "--model", model, "--index", "index", "--window", "2")
    assert run_here(*index, "--exclude", "raw", "--exclude", "*.tmp.mp4") == 0
    assert "1 videos, 1 segments, 0.00 hours" in (out := capsys.readouterr().out)
    assert ", 3 excluded; index: index\n" in out
    (tmp_path / "lib" / ".clipvipignore").write_text("*.tmp.mp4\n")
    assert run_here("index", "--index", "index", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["videos"], told["unchanged"], told["excluded"]) == (2, 1, 2)
    assert run_here("index", "--index", "index", "--prune", "--exclude", "raw/") == 0
    assert "2 removed" in capsys.readouterr().out
    assert run_here("index", "--index", "index", "--upgrade", "--exclude", "raw/") == 2
    assert run_here("index", "--index", "index", "--status", "--exclude", "raw/") == 2
    assert run_here("index", "--index", "index", "--embeddings", "set", "--exclude", "raw/") == 2
    assert run_here("index", "--index", "index", "--exclude", "!") == 2
    assert "no gitignore pattern" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["a.vob", "a.DV", "a.MOD", "a.asf", "a.f4v", "a.m2v", "a.insv", "PXL_1.MP", "a.m1v", "a.m2t", "a.tod", "a.mxf"],
)
def test_extensions_of_cameras_and_recorders(tmp_path, name):
    """Catches recordings that are passed over in silence because of their ending."""
    touch(tmp_path, name)
    assert paths(tmp_path)[0] == [name]


def module(title: bytes = b"a song", mark: bytes = b"M.K.") -> bytes:
    return title.ljust(1080, b"\0") + mark + bytes(1000)


OTHERS = {
    "app.ts": b"import { Component } from '@angular/core';\nexport const a = 1;\n",
    "latin.ts": "// Müller\nexport const a = 1;\n".encode("latin-1"),
    "empty.ts": b"",
    "utf16.ts": "export const ä = 1;\n".encode("utf-16"),
    "german.TS": b'<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE TS>\n' + 9000 * "ü".encode(),
    "song.mod": module(),
    "song8.mod": module(mark=b"8CHN"),
    "song16.mod": module(mark=b"16CH"),
    "go.mod": b"module example.org/x\n\ngo 1.22\n",
    "iso.mod": b"\x1f\x8b\x08" + bytes(range(256)),
    "ext2.mod": b"\x7fELF" + bytes(2000),
    "figure.mp": b"beginfig(1);\n draw (0,0)--(1cm,1cm);\nendfig;\n",
}


def test_other_files_with_the_extension_of_a_video(tmp_path, encoder):
    """Catches TypeScript and tracker music that count as failed videos at every run, also in an index made before."""
    for name, content in OTHERS.items():
        (tmp_path / name).write_bytes(content)
        assert is_something_else(tmp_path / name), name
    found = find_videos([tmp_path])
    assert (found.files, found.skipped, found.left_out) == ([], [], set())
    with pytest.raises(ClipVipError, match="no video files there"):
        Library(tmp_path / "index", encoder).add(tmp_path)
    write_video(tmp_path / "a.mp4", 8)
    library = Library(tmp_path / "index", encoder, windows_s=2.0)
    summary = library.add([tmp_path / "app.ts", tmp_path])  # named: it is reported
    assert [skip.video.name for skip in summary.skipped] == ["app.ts"]
    assert len(library.status().failures) == 1
    assert library.add(tmp_path).skipped == []
    assert library.status().failures == ()


@pytest.mark.parametrize("damage", ["whole", "cut", "no start", "zeros", "foreign start"])
def test_transport_streams_are_videos_however_damaged(tmp_path, damage):
    """Catches a recording that is left out because it begins in the middle of a packet, or with a gap."""
    path = write_video(tmp_path / "a.ts", 20, codec="mpeg2video")
    content = path.read_bytes()
    changed = {
        "whole": content,
        "cut": content[: len(content) // 2],
        "no start": content[77:],
        "zeros": bytes(20_000) + content,
        "foreign start": b"\xff\xfe" + os.urandom(512) + content,
    }[damage]
    for name in ("a.ts", "a.mod", "a.mp"):
        (tmp_path / name).write_bytes(changed)
        assert not is_something_else(tmp_path / name)
    assert len(find_videos([tmp_path]).files) == 3


def test_a_pipe_with_an_ambiguous_name_does_not_block(tmp_path):
    """Catches a look at a file that waits for ever."""
    os.mkfifo(tmp_path / "a.ts")
    [skipped] = find_videos([tmp_path]).skipped
    assert skipped.reason == "not a regular file"
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("pattern", ["*/", "**/", "/**/", "**/*/"])
def test_patterns_that_are_a_slash_alone_leave_out_folders(tmp_path, pattern):
    """Catches a pattern whose regular expression is not bound to the beginning of a path."""
    rules = IgnoreRules(str(tmp_path), [pattern])
    assert rules.ignores("a", is_folder=True)
    assert rules.ignores("a/b", is_folder=True)
    assert not rules.ignores("a.mp4", is_folder=False)
    assert not IgnoreRules(str(tmp_path), [pattern, "!keep/"]).ignores("keep", is_folder=True)
