"""`clipvip data check`, as a person types it, and killed on its way."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clipvip.data.manifest import read_manifest
from helpers_cli import run_here
from helpers_fuzz import reports_despite_kills, write_flawed_set
from helpers_import import write
from helpers_video import write_video

ROWS = [
    {"clip_id": "fine", "video": "a.mp4", "captions": ["a dog"]},
    {"clip_id": "short", "video": "a.mp4", "end_s": 0.5},
    {"clip_id": "twin", "video": "a.mp4", "captions": ["a dog again"]},
    *({"clip_id": f"gone{i}", "video": "\udcff.mp4" if i == 0 else f"gone{i}.mp4"} for i in range(5)),
    {"clip_id": "bad", "video": "text.mp4"},
]

run = partial(run_here, "data", "check")


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the rows above, in the working directory, its media in `media`."""
    monkeypatch.chdir(tmp_path)
    Path("media").mkdir()
    write_video(Path("media/a.mp4"), 20)
    Path("media/text.mp4").write_text("no film")
    return write(Path("m.jsonl"), ROWS, lines=True)


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a verb without help."""
    assert run("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Usage: clipvip data check" in text
    assert "Example: clipvip data check" in text


def test_the_report(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a report without counts, names or reasons, or one that floods the terminal or chokes on a file name."""
    assert run(manifest, "--videos", "media", "--fix", "clean.jsonl") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0] == "m.jsonl: 9 clips, 1 of them fine (every frame was decoded)"
    assert lines[1].strip() == "bad: 1"
    assert lines[2].strip().startswith("bad (media/text.mp4): not a media file")
    assert "    short (media/a.mp4): 5 frames, fewer than 12" in lines
    assert "    twin (media/a.mp4): same content as fine" in lines
    assert "    gone0 (media/\\udcff.mp4): no such file or directory" in lines
    assert "    and 2 more" in lines
    assert "gone3" not in captured.out
    assert lines[-2].startswith("all of them: m.jsonl.check/report.json")
    assert lines[-1] == "clean manifest: clean.jsonl, 1 clips"
    assert len(json.loads(Path("m.jsonl.check/report.json").read_text())["missing"]) == 5
    (clip,) = read_manifest("clean.jsonl", videos="media")
    assert (clip.clip_id, clip.path.is_file()) == ("fine", True)


def test_json_and_exit_codes(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an exit code that stops a script for nothing, or lets it go on; options without effect."""
    common = (manifest, "--videos", "media", "--json")
    assert run(*common) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["counts"] == {"clips": 9, "ok": 1, "bad": 1, "short": 1, "duplicated": 1, "missing": 5}
    assert run(*common, "--strict", "--num-frames", 5, "--fix", "c.jsonl") == 1
    assert json.loads(capsys.readouterr().out)["clean"] == {"manifest": "c.jsonl", "clips": 2}
    assert run(*common, "--min-seconds", 3, "--fix", "c.jsonl", "--keep-short", "--work", "w") == 0
    report = json.loads(capsys.readouterr().out)
    assert [entry["clip_id"] for entry in report["short"]] == ["fine", "short"]
    assert report["clean"]["clips"] == 2
    assert Path("w/report.json").exists()
    quick = ("--quick", "--num-frames", 4, "--work", "quick", "--workers", 1, "--timeout", 30, "--strict")
    assert run("c.jsonl", "--videos", "media", *quick) == 0
    assert "c.jsonl: 2 clips, 2 of them fine (4 frames of each were read)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.jsonl"], 1, "none.jsonl: no such manifest"),
        (["bad.jsonl"], 1, "bad.jsonl, line 1: field 'clip_id' is missing"),
        (["empty.jsonl"], 1, "empty.jsonl: no clips"),
        (["m.jsonl", "--split", "val"], 1, "no clips of split 'val' (splits here: none)"),
        (["m.jsonl", "--fix", "m.jsonl"], 2, "--fix m.jsonl is the manifest itself"),
        (["m.jsonl", "--workers", "0"], 2, "--workers 0: must be at least 1"),
    ],
)
def test_errors_are_one_line_with_the_right_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[Any],
    code: int,
    message: str,
) -> None:
    """Catches tracebacks, wrong exit codes, errors that name nothing, and work folders left behind by them."""
    monkeypatch.chdir(tmp_path)
    write(Path("bad.jsonl"), {"video": "x"})
    write(Path("empty.jsonl"), "")
    write(Path("m.jsonl"), ROWS, lines=True)
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.glob("*.check"))


def test_kills_change_nothing(tmp_path: Path) -> None:
    """Catches a clip lost, counted twice or judged otherwise because the check was killed; done parts done again."""
    manifest = write_flawed_set(tmp_path / "set", 70)
    whole, *others = reports_despite_kills(manifest, tmp_path, num_kills=3, seed=1)
    counts = json.loads(whole)["counts"]
    assert counts == {"clips": 70, "ok": 63, "bad": 2, "short": 1, "duplicated": 3, "missing": 1}
    assert set(others) == {whole}
