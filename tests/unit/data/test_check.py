"""What `check_manifest` finds, keeps and writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipvip.data.manifest import read_manifest
from clipvip.data.tools import CheckTask, check, check_manifest
from clipvip.data.tools import check_task as task
from clipvip.errors import ManifestError, UsageError
from clipvip.records import Clip
from clipvip.video.container import open_video
from helpers_fuzz import FragileCheck
from helpers_import import write
from helpers_video import write_frames, write_video


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file of each sort."""
    folder = tmp_path_factory.mktemp("media")
    whole = write_video(folder / "good.mp4", 40, faststart=True).read_bytes()
    (folder / "copy.mp4").write_bytes(whole)
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    write_video(folder / "other.mkv", 40, first_pts=3)
    write_video(folder / "short.webm", 5, codec="libvpx-vp9")
    (folder / "text.mp4").write_text("a film about text " * 99)
    (folder / "folder.mp4").mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "photo.png")
    shutil.copy(folder / "photo.png", folder / "photo2.png")
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:-500])
    return folder


def checked(folder: Path, rows: list[dict[str, Any]], media: Path, **options: Any) -> dict[str, Any]:
    """The report on a manifest of these rows in `folder`, whose media are in `media`."""
    manifest = write(folder / "m.jsonl", rows, lines=True)
    return check_manifest(manifest, videos=media, **{"workers": 1, **options})


def ids(report: dict[str, Any]) -> dict[str, list[str]]:
    return {kind: [entry["clip_id"] for entry in report[kind]] for kind in check.KINDS}


def test_every_kind_is_found(tmp_path: Path, media: Path) -> None:
    """Catches a flaw that is not seen, one that is counted twice, and sound clips that are accused."""
    rows = [
        {"clip_id": "good", "video": "good.mp4"},
        {"clip_id": "cut", "video": "cut.mp4"},
        {"clip_id": "text", "video": "text.mp4"},
        {"clip_id": "folder", "video": "folder.mp4"},
        {"clip_id": "copy", "video": "copy.mp4"},
        {"clip_id": "part", "video": "copy.mp4", "start_s": 1.0, "end_s": 3.0},
        {"clip_id": "part again", "video": "good.mp4", "start_s": 1, "end_s": 3},
        {"clip_id": "from 0", "video": "good.mp4", "start_s": 0.0},
        {"clip_id": "beyond", "video": "good.mp4", "start_s": 9.0, "end_s": 12.0},
        {"clip_id": "before the cut", "video": "cut.mp4", "start_s": 0.0, "end_s": 1.5},
        {"clip_id": "other", "video": "other.mkv"},
        {"clip_id": "short", "video": "short.webm"},
        {"clip_id": "short again", "video": "short.webm", "start_s": 0.0},
        {"clip_id": "short part", "video": "other.mkv", "start_s": 1.0, "end_s": 2.0},
        {"clip_id": "gone", "video": "nowhere.mp4"},
        {"clip_id": "gone below a file", "video": "good.mp4/a.mp4"},
        {"clip_id": "no name", "video": "\ud800.mp4"},
        {"clip_id": "photo", "image": "photo.png"},
        {"clip_id": "photo2", "image": "photo2.png", "start_s": 1.0},
        {"clip_id": "cut photo", "image": "cut.png"},
        {"clip_id": "gone photo", "image": "nowhere.png"},
    ]
    report = checked(tmp_path, rows, media, workers=2)
    assert ids(report) == {
        "bad": ["cut", "text", "folder", "beyond", "cut photo"],
        "short": ["short", "short part"],
        "duplicated": ["copy", "part again", "from 0", "short again", "photo2"],
        "missing": ["gone", "gone below a file", "no name", "gone photo"],
    }
    assert report["counts"] == {"clips": 21, "ok": 5, "bad": 5, "short": 2, "duplicated": 5, "missing": 4}
    assert [entry["of"] for entry in report["duplicated"]] == ["good", "part", "good", "short", "photo"]
    reasons = {entry["clip_id"]: entry["reason"] for kind in check.KINDS for entry in report[kind]}
    assert "breaks off after " in reasons["cut"]
    assert "lies beyond the end (4.000 s)" in reasons["beyond"]
    assert reasons["cut photo"].startswith("damaged picture")
    assert reasons["short"] == "5 frames, fewer than 12"
    assert reasons["copy"] == "same content as good"
    assert reasons["gone"] == "no such file or directory"
    assert report["bad"][0]["media"] == str(media / "cut.mp4")
    assert report["short"][1] == {
        "clip_id": "short part",
        "media": str(media / "other.mkv"),
        "reason": "10 frames, fewer than 12",
        "frames": 10,
        "seconds": 1.0,
    }
    assert json.loads((tmp_path / "m.jsonl.check" / "report.json").read_text()) == report


def test_lines_say_what_decoding_showed(tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches wrong counts of frames and seconds, and a file that is hashed again for each of its clips."""
    hashed = []
    digest = task.file_digest
    monkeypatch.setattr(task, "file_digest", lambda path, method: hashed.append(path.name) or digest(path, method))
    clips = [
        Clip("whole", video=media / "good.mp4"),
        Clip("part", video=media / "good.mp4", start_s=0.55, end_s=1.55),
        Clip("late start", video=media / "other.mkv"),
        Clip("photo", image=media / "photo.png"),
        Clip("text", video=media / "text.mp4"),
        Clip("photo again", image=media / "photo.png"),
    ]
    beats: list[int] = []
    assert CheckTask().run(clips, tmp_path / "part.jsonl", lambda: beats.append(1)) == {}
    lines = [json.loads(line) for line in (tmp_path / "part.jsonl").read_text().splitlines()]
    assert [(line["status"], line["frames"], line["seconds"]) for line in lines] == [
        ("ok", 40, 4.0),
        ("ok", 10, 1.0),
        ("ok", 40, 4.0),
        ("ok", 1, None),
        ("bad", None, None),
        ("ok", 1, None),
    ]
    assert list(lines[0]) == ["clip_id", "status", "reason", "frames", "seconds", "digest"]
    assert lines[0]["digest"] == lines[1]["digest"] != lines[2]["digest"]
    assert hashed == ["good.mp4", "other.mkv", "photo.png"]
    assert len(beats) == len(clips)


@pytest.mark.parametrize("name", ["good.mp4", "other.mkv", "short.webm"])
def test_quick_counts_as_the_full_check_does(tmp_path: Path, media: Path, name: str) -> None:
    """Catches clips that are short in one mode only."""
    clips = [Clip("whole", video=media / name), Clip("part", video=media / name, start_s=0.1, end_s=0.35)]
    lines = []
    for num_frames in (None, 4):
        CheckTask(num_frames=num_frames).run(clips, tmp_path / "part.jsonl", lambda: None)
        lines.append([json.loads(line) for line in (tmp_path / "part.jsonl").read_text().splitlines()])
    full, quick = lines
    assert [line["frames"] for line in full] == [line["frames"] for line in quick]
    np.testing.assert_allclose([line["seconds"] for line in full], [line["seconds"] for line in quick], atol=0.1)


@pytest.mark.parametrize("quick", [False, True])
def test_folders_of_frames(quick: bool, tmp_path: Path, media: Path) -> None:
    """Catches sound folders that are accused, and frames that are damaged, too few, or another folder's copy."""
    write_frames(media / "frames", 120)
    shutil.copytree(media / "frames", media / "again")
    write_frames(media / "few", 3)
    (write_frames(media / "torn", 4) / "torn_001.png").write_bytes(b"\x89PNG cut")
    rows = [{"clip_id": name, "video": name} for name in ("frames", "again", "few", "torn")]
    report = checked(tmp_path, rows, media, quick=quick, num_frames=4, min_seconds=1)
    assert ids(report) == {"bad": ["torn"], "missing": [], "short": ["few"], "duplicated": ["again"]}
    for name in ("frames", "again", "few", "torn"):
        shutil.rmtree(media / name)


def test_quick_reads_a_few_frames_only(tmp_path: Path) -> None:
    """Catches a quick check that decodes everything, and a full one that looks at a sample."""
    path = write_video(tmp_path / "hole.mp4", 70, g="1", bf="0")
    with open_video(path, 1) as video:
        entry = video.stream.index_entries[35]
        start, size = entry.pos, entry.size  # an entry points into memory that closing the file frees
    data = bytearray(path.read_bytes())
    data[start : start + size] = bytes(size)
    path.write_bytes(data)
    rows = [{"clip_id": "hole", "video": "hole.mp4"}]
    assert checked(tmp_path, rows, tmp_path, quick=True, num_frames=2)["counts"]["ok"] == 1
    report = checked(tmp_path, rows, tmp_path, num_frames=2, work=tmp_path / "full")
    assert report["bad"][0]["reason"].startswith("decoding fails after 35 frames")


def test_frames_of_several_sizes_are_fine(tmp_path: Path) -> None:
    """Catches a file called bad whose every frame can be used: training scales each on its own."""
    small, large = (write_video(tmp_path / f"{width}.ts", 30, width=width) for width in (64, 96))
    (tmp_path / "both.ts").write_bytes(small.read_bytes() + large.read_bytes())
    report = checked(tmp_path, [{"clip_id": "both", "video": "both.ts"}], tmp_path)
    assert report["counts"]["ok"] == 1


def test_other_limits_need_no_second_decode(tmp_path: Path, media: Path) -> None:
    """Catches hours of decoding for a question that the finished parts answer."""
    rows = [
        {"clip_id": "four", "video": "a.mp4"},
        {"clip_id": "two", "video": "a.mp4", "start_s": 0.05, "end_s": 2.05},
        {"clip_id": "one", "video": "a.mp4", "start_s": 1.0, "end_s": 2.0},
    ]
    shutil.copy(media / "good.mp4", tmp_path / "a.mp4")
    assert ids(checked(tmp_path, rows, tmp_path))["short"] == ["one"]
    (tmp_path / "a.mp4").unlink()
    assert ids(checked(tmp_path, rows, tmp_path, num_frames=5))["short"] == []
    assert ids(checked(tmp_path, rows, tmp_path, num_frames=5, min_seconds=2.0))["short"] == ["one"]
    report = checked(tmp_path, rows, tmp_path, num_frames=5, min_seconds=2.5)
    assert [entry["reason"] for entry in report["short"]] == ["2 s, shorter than 2.5 s", "1 s, shorter than 2.5 s"]


def test_a_file_that_takes_the_decoder_down_is_one_bad_clip(
    tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a crash, a hang or a flood of memory that ends the check or takes its neighbours with it."""
    monkeypatch.setattr("clipvip.data.tools.check.CheckTask", FragileCheck)
    names = ("crash", "hang", "hog", "bug")
    for name in names:
        shutil.copy(media / "good.mp4", tmp_path / f"{name}.mp4")
    shutil.copy(media / "other.mkv", tmp_path)
    rows = [{"clip_id": f"clip {name}", "video": f"{name}.mp4"} for name in names]
    rows.insert(2, {"clip_id": "fine", "video": "other.mkv"})
    report = checked(tmp_path, rows, tmp_path, workers=2, timeout_s=5.0)
    assert ids(report) == {"bad": [f"clip {name}" for name in names], "short": [], "duplicated": [], "missing": []}
    reasons = [entry["reason"] for entry in report["bad"]]
    for reason, words in zip(reasons, ("crashed (SIGSEGV)", "silent for 5 s", "bytes of memory", "a bug"), strict=True):
        assert words in reason


def test_the_clean_manifest(tmp_path: Path, media: Path) -> None:
    """Catches a clean manifest with flawed clips, without sound ones, with lost keys or paths that lead nowhere."""
    rows = [
        {"clip_id": "a", "video": "media/good.mp4", "captions": ["a dog"], "split": "train", "rating": {"stars": 3}},
        {"clip_id": "b", "video": "media/text.mp4", "split": "train"},
        {"clip_id": "c", "video": "media/short.webm", "split": "train"},
        {"clip_id": "d", "video": "media/copy.mp4", "split": "train"},
        {"clip_id": "e", "video": "media/nowhere.mp4", "split": "train"},
        {"clip_id": "f", "video": "media/text.mp4", "split": "test", "mark": [1]},
    ]
    (tmp_path / "media").symlink_to(media)
    (tmp_path / "out").mkdir()
    manifest, clean = write(tmp_path / "m.jsonl", rows, lines=True), tmp_path / "out" / "clean.jsonl"
    report = check_manifest(manifest, split="train", workers=1, fix=clean)
    assert report["clean"] == {"manifest": str(clean), "clips": 2}
    assert report["counts"] == {"clips": 5, "ok": 1, "bad": 1, "short": 1, "duplicated": 1, "missing": 1}
    kept = [json.loads(line) for line in clean.read_text().splitlines()]
    assert [(row["clip_id"], row.get("rating"), row.get("mark")) for row in kept] == [
        ("a", {"stars": 3}, None),
        ("f", None, [1]),
    ]
    assert read_manifest(clean)[0].path.samefile(media / "good.mp4")
    check_manifest(manifest, split="train", workers=1, fix=clean, keep_short=True)
    assert [clip.clip_id for clip in read_manifest(clean)] == ["a", "c", "f"]


def test_nothing_fine_leaves_the_old_file(tmp_path: Path, media: Path) -> None:
    """Catches an empty manifest, which no other verb would take, written over a good one."""
    clean = write(tmp_path / "clean.jsonl", "old")
    with pytest.raises(ManifestError, match="not one clip is fine"):
        checked(tmp_path, [{"clip_id": "a", "video": "text.mp4"}], media, fix=clean)
    assert clean.read_text() == "old"
    assert (tmp_path / "m.jsonl.check" / "report.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "--num-frames 0: must be at least 1"),
        ({"workers": 0}, "--workers 0"),
        ({"min_seconds": -1.0}, "--min-seconds -1: must be more than 0"),
        ({"min_seconds": float("nan")}, "--min-seconds nan"),
        ({"timeout_s": 0.0}, "--timeout 0"),
        ({"keep_short": True}, "--keep-short needs --fix"),
        ({"fix": "m.jsonl"}, "--fix m.jsonl is the manifest itself"),
        ({"fix": "link.jsonl"}, "--fix link.jsonl is the manifest itself"),
        ({"fix": "no/clean.jsonl"}, "there is no folder no"),
        ({"fix": "."}, "is a folder"),
    ],
)
def test_impossible_arguments_are_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    """Catches hours of decoding that end in a usage error, and a manifest overwritten by its own clean copy."""
    monkeypatch.chdir(tmp_path)
    manifest = write(Path("m.jsonl"), [{"clip_id": "a", "video": "a.mp4"}], lines=True)
    Path("link.jsonl").symlink_to("m.jsonl")
    with pytest.raises(UsageError, match=message):
        check_manifest(manifest, **options)
    assert not Path("m.jsonl.check").exists()


def test_a_work_folder_belongs_to_one_check(tmp_path: Path, media: Path) -> None:
    """Catches the parts of an older manifest, or of a quick check, taken for this one's."""
    rows = [{"clip_id": "a", "video": "good.mp4", "split": "train"}]
    checked(tmp_path, rows, media)
    for options in ({"quick": True}, {"split": "train"}, {"timeout_s": 9.0}):
        with pytest.raises(UsageError, match=r"m\.jsonl\.check: .*choose another folder, or delete it"):
            checked(tmp_path, rows, media, **options)
    with pytest.raises(UsageError, match=r"holds another job"):
        checked(tmp_path, [*rows, {"clip_id": "b", "video": "good.mp4"}], media)
    with pytest.raises(ManifestError, match=r"no clips of split 'val' \(splits here: train\)"):
        checked(tmp_path, rows, media, split="val")


def test_a_manifest_that_changes_on_the_way_is_an_error(tmp_path: Path, media: Path) -> None:
    """Catches a clean manifest with lines that nobody checked."""
    manifest = write(tmp_path / "m.jsonl", [{"clip_id": "a", "video": "good.mp4"}], lines=True)

    def change(count: int, total: int) -> None:
        if count == total:
            write(manifest, [{"clip_id": "b", "video": "good.mp4"}], lines=True)

    with pytest.raises(ManifestError, match="was changed while it was checked"):
        check_manifest(manifest, videos=media, workers=1, progress=change, fix=tmp_path / "clean.jsonl")
    assert not (tmp_path / "clean.jsonl").exists()


def test_progress_ends_at_the_total(tmp_path: Path, media: Path) -> None:
    """Catches clips counted twice or not at all, with several workers and after an interruption."""
    rows = [{"clip_id": f"{i}", "video": "good.mp4", "start_s": i / 100} for i in range(70)]
    for _ in range(2):
        told: list[tuple[int, int]] = []
        checked(tmp_path, rows, media, workers=2, progress=lambda *numbers: told.append(numbers))  # noqa: B023
        assert {total for _, total in told} == {70}
        assert sum(count for count, _ in told) == 70
    assert len(list((tmp_path / "m.jsonl.check").glob("check-*.jsonl"))) == 35
