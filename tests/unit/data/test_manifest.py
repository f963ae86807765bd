"""Reading and writing manifests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipvip.data.manifest import iter_manifest, read_manifest, validate_manifest, write_manifest
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
        ({"clip_id": "b", "video": "x", "captions": ""}, "'captions' must be a list of strings, got ''"),
        ({"clip_id": "b", "video": "x", "end_s": float("nan")}, "'end_s' must be a number of seconds"),
        ({"clip_id": "b", "video": "x", "end_s": float("inf")}, "'end_s' is beyond any video"),
        ({"clip_id": "b", "video": "x\0y"}, "'video' is no path"),
        ("[" * 100_000, "not JSON"),
        ('{"clip_id": ' + "9" * 5000 + "}", "not JSON"),
        ({"clip_id": "b", "video": "x", "start_s": 4, "end_s": 4}, r"'end_s' \(4\) is not after 'start_s' \(4\)"),
    ],
)
def test_malformed_lines_name_file_line_and_field(tmp_path: Path, line: object, message: str) -> None:
    """Catches a bad line that passes, or whose error does not say where it is."""
    path = write_lines(tmp_path / "m.jsonl", GOOD, line)
    for read in (read_manifest, validate_manifest, lambda path: list(iter_manifest(path, split="none"))):
        with pytest.raises(ManifestError, match=message) as caught:
            read(path)
        assert "m.jsonl, line 2" in str(caught.value)


def test_lines_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    """Catches an encoding error that tells only the file, which may have millions of lines."""
    path = write_lines(tmp_path / "m.jsonl", GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b'\r\n{"clip_id": "\xff"}\n')
    with pytest.raises(ManifestError, match=r"m\.jsonl, line 3: not JSON: 'utf-8' codec"):
        validate_manifest(path)


def test_reading_streams(tmp_path: Path) -> None:
    """Catches a reader that wants the whole file before the first clip."""
    path = write_lines(tmp_path / "m.jsonl", GOOD, "{broken")
    clips = iter_manifest(path)
    assert next(clips).clip_id == "a"
    with pytest.raises(ManifestError, match="line 2"):
        next(clips)
    twice = write_lines(tmp_path / "twice.jsonl", GOOD, GOOD)
    assert [clip.clip_id for clip in iter_manifest(twice, unique=False)] == ["a", "a"]
    assert validate_manifest(write_lines(path, GOOD, "", {**GOOD, "clip_id": "b"})) == 2


def test_missing_and_empty_manifests(tmp_path: Path) -> None:
    """Catches a run on nothing."""
    with pytest.raises(ManifestError, match="no such manifest"):
        read_manifest(tmp_path / "none.jsonl")
    for read in (read_manifest, validate_manifest):
        with pytest.raises(ManifestError, match="no clips"):
            read(write_lines(tmp_path / "empty.jsonl"))
        with pytest.raises(ManifestError, match="a folder"):
            read(tmp_path)


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
    assert [file.name for file in tmp_path.iterdir()] == ["m.jsonl"]


def test_writing_streams_and_counts(tmp_path: Path) -> None:
    """Catches a writer that collects everything first, or shows a file that is not complete."""
    out = tmp_path / "out.jsonl"

    def clips() -> Iterator[Clip]:
        for i in range(5):
            assert not out.exists()
            yield Clip(str(i), video=tmp_path / "v" / f"{i}.mp4")

    assert write_manifest(out, clips()) == 5
    assert [clip.clip_id for clip in read_manifest(out)] == list("01234")


def test_paths_relative_to_the_media_folder_stay_so(tmp_path: Path) -> None:
    """Catches a tool that rewrites paths which are meant to be used with --videos."""
    path = write_lines(tmp_path / "m.jsonl", GOOD)
    (tmp_path / "far" / "away").mkdir(parents=True)
    copy = tmp_path / "far" / "away" / "copy.jsonl"
    write_manifest(copy, iter_manifest(path, videos=tmp_path / "media"), videos=tmp_path / "media")
    assert json.loads(copy.read_text()) == GOOD
    write_manifest(copy, iter_manifest(path))
    assert json.loads(copy.read_text())["video"] == "../../v/a.mp4"


def test_paths_out_of_a_linked_folder_still_lead_there(tmp_path: Path) -> None:
    """Catches ".." taken by name where the folder is a link, so that the system looks somewhere else."""
    for folder in ("disk/runs", "home/v"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "home" / "runs").symlink_to(tmp_path / "disk" / "runs")
    video = tmp_path / "home" / "v" / "a.mp4"
    video.touch()
    write_manifest(tmp_path / "home" / "runs" / "m.jsonl", [Clip("a", video=video)])
    (clip,) = read_manifest(tmp_path / "home" / "runs" / "m.jsonl")
    assert clip.path.samefile(video)


def test_names_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches manifests and media of the working directory itself, whose folder has an empty name."""
    monkeypatch.chdir(tmp_path)
    write_lines(Path("m.jsonl"), {"clip_id": "a", "video": "a.mp4"}, {"clip_id": "b", "video": "./v/../b.mp4"})
    write_manifest("copy.jsonl", iter_manifest("m.jsonl"))
    assert [json.loads(line)["video"] for line in Path("copy.jsonl").read_text().splitlines()] == ["a.mp4", "b.mp4"]
    write_manifest("copy.jsonl", iter_manifest("m.jsonl", videos="v"), videos="v")
    assert read_manifest("copy.jsonl", videos="v")[0].path == Path("v/a.mp4")


def test_half_characters_survive(tmp_path: Path) -> None:
    """Catches a file name that is not UTF-8, or a broken subtitle, that stops a tool from writing."""
    row = {**GOOD, "video": "v/\udcff.mp4", "note": "\ud83d"}
    path = write_lines(tmp_path / "m.jsonl", row)
    write_manifest(tmp_path / "copy.jsonl", iter_manifest(path))
    assert json.loads((tmp_path / "copy.jsonl").read_text()) == row
