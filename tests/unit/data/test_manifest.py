"""Reading and writing manifests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipvip.data.manifest import read_manifest, write_manifest
from clipvip.errors import ManifestError
from clipvip.records import Clip

GOOD = {"clip_id": "a", "video": "v/a.mp4", "captions": ["a dog"]}


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_round_trip_keeps_unknown_keys(tmp_path: Path) -> None:
    """Catches fields dropped by a tool that reads and writes a manifest."""
    row = {
        "clip_id": "ä",
        "video": "v/ü.mp4",
        "captions": ["one", "two"],
        "subtitle": "so",
        "caption": "a dog",
        "start_s": 1.5,
        "end_s": 3,
        "split": "val",
        "twin": "b",
        "nested": {"kept": [1, 2]},
    }
    path = write_lines(tmp_path / "m.jsonl", row, {"clip_id": "i", "image": "i.png"})
    clips = read_manifest(path)
    assert clips[0].video == tmp_path / "v/ü.mp4"
    assert clips[0].time_range == (1.5, 3)
    assert clips[1].image == tmp_path / "i.png"
    assert clips[1].time_range is None
    write_manifest(tmp_path / "copy.jsonl", clips)
    assert [json.loads(line) for line in (tmp_path / "copy.jsonl").read_text(encoding="utf-8").splitlines()] == [
        row,
        {"clip_id": "i", "image": "i.png"},
    ]


def test_paths_follow_videos_root_and_splits(tmp_path: Path) -> None:
    """Catches paths resolved against the working directory, and splits that leak into each other."""
    path = write_lines(tmp_path / "m.jsonl", {**GOOD, "split": "train"}, {**GOOD, "clip_id": "b", "split": "test"})
    (only,) = read_manifest(path, videos=tmp_path / "elsewhere", split="test")
    assert only.clip_id == "b"
    assert only.path == tmp_path / "elsewhere" / "v/a.mp4"
    with pytest.raises(ManifestError, match=r"no clips of split 'val' \(splits here: test, train\)"):
        read_manifest(path, split="val")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2: not JSON"),
        ("[1]", "expected an object, got list"),
        ({"video": "x.mp4"}, "'clip_id' is missing"),
        ({"clip_id": "b"}, "exactly one of the fields 'video' and 'image'"),
        ({"clip_id": "b", "video": "x", "image": "y"}, "exactly one of the fields"),
        ({**GOOD}, "clip_id 'a' is already used in line 1"),
        ({"clip_id": "b", "video": "x", "captions": "text"}, "'captions' must be a list of strings, got 'text'"),
        ({"clip_id": "b", "video": "x", "captions": ["ok", None]}, "'captions' must be a list"),
        ({"clip_id": "b", "video": "x", "subtitle": 3}, "'subtitle' must be a string, got 3"),
        ({"clip_id": "b", "video": "x", "start_s": -1}, "'start_s' must be a number of seconds"),
        ({"clip_id": "b", "video": "x", "start_s": 4, "end_s": 4}, r"'end_s' \(4\) is not after 'start_s' \(4\)"),
    ],
)
def test_malformed_lines_name_file_line_and_field(tmp_path: Path, line: object, message: str) -> None:
    """Catches a bad line that passes, or whose error does not say where it is."""
    path = write_lines(tmp_path / "m.jsonl", GOOD, line)
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(path)
    assert "m.jsonl, line 2" in str(caught.value)


def test_missing_and_empty_manifests(tmp_path: Path) -> None:
    """Catches a run on nothing."""
    with pytest.raises(ManifestError, match="no such manifest"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(ManifestError, match="no clips"):
        read_manifest(write_lines(tmp_path / "empty.jsonl"))


def test_write_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    """Catches a manifest truncated by a crash in mid-write."""
    path = write_lines(tmp_path / "m.jsonl", GOOD)
    before = path.read_bytes()

    def broken() -> object:
        yield Clip("x", video=tmp_path / "x.mp4")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_manifest(path, broken())  # type: ignore[arg-type]
    assert path.read_bytes() == before
