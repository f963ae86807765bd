"""`clipvip data`, as a person types it: import, stats, subset; help, exit codes, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clipvip.data.importers import FORMATS
from clipvip.data.manifest import read_manifest
from helpers_cli import run_here
from helpers_import import touch, write

DIDEMO = [
    {"description": "one.", "times": [[0, 0]], "video": "a.mov"},
    {"description": "two.", "times": [[1, 1]], "video": "b.avi"},
    {"description": "three.", "times": [[1, 2]], "video": "a.mov"},
]

run = partial(run_here, "data")


@pytest.mark.parametrize("verb", ["", "import", "stats", "subset"])
def test_help_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a verb without help."""
    assert run(*([verb] if verb else []), "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Example: clipvip data" in text
    assert f"Usage: clipvip data {verb}".strip() in text


def test_data_verbs_do_not_wait_for_torch() -> None:
    """Catches an import that makes work on manifests load what only models need."""
    code = (
        "import sys, clipvip.cli, clipvip.data.importers, clipvip.data.manifest, clipvip.data.tools.stats; "
        "from clipvip.data.tools import write_subset; "
        "found = {'torch', 'transformers', 'av', 'lmdb'} & set(sys.modules); assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_format_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a format that nobody can find."""
    assert run("import", "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(FORMATS)
    assert all(len(line.split()) > 3 for line in lines)


def test_import_stats_subset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches counts that are not told, unknown keys that get lost, and paths that lead nowhere from another folder."""
    source = write(tmp_path / "didemo" / "test_data.json", DIDEMO)
    videos = touch(tmp_path / "media", "a.mp4")
    manifest, small = tmp_path / "m.jsonl", tmp_path / "didemo" / "small.jsonl"
    common = ("import", "didemo", source, "--videos", videos, "--split", "test", "--out", manifest)
    assert run(*common) == 0
    text = capsys.readouterr().out
    assert f"didemo: 2 clips, 3 captions -> {manifest}" in text
    assert "media: 1 found (1 under another name), 1 missing (kept; --drop-missing leaves them out): b.avi" in text
    assert "duplicates: none" in text
    assert "1,003" in text
    assert run(*common, "--drop-missing", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["clips"], report["missing"], report["missing_dropped"]) == (1, 1, 1)

    assert run("stats", manifest, "--json") == 0
    assert json.loads(capsys.readouterr().out)["by_split"] == {"test": 1}
    assert run("stats", manifest) == 0
    assert "repeated captions" in capsys.readouterr().out

    assert run("subset", manifest, "--count", 1, "--out", small, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"out": str(small), "clips": 1, "of": 1, "share": 1.0, "seed": 0, "split": None}
    (clip,) = read_manifest(small)
    assert clip.path.samefile(videos / "a.mp4")
    assert clip.captions == ("one.", "three.")
    assert clip.extra["times"] == [[[0, 0]], [[1, 2]]]


def test_paths_relative_to_the_videos(tmp_path: Path) -> None:
    """Catches a manifest for --videos ROOT that only works without it, before and after `subset`."""
    source = write(tmp_path / "clips.csv", "path,text\nsub/a.avi,a dog\n")
    videos = touch(tmp_path / "media", "sub/a.mp4")
    arguments = ("--field", "video=path", "--field", "captions=text", "--videos", videos, "--relative-to", "videos")
    (tmp_path / "out").mkdir()
    manifest, copy = tmp_path / "m.jsonl", tmp_path / "out" / "copy.jsonl"
    assert run("import", "csv", source, *arguments, "--out", manifest) == 0
    assert run("subset", manifest, "--share", 1, "--videos", videos, "--out", copy) == 0
    for path in (manifest, copy):
        assert json.loads(path.read_text())["video"] == "sub/a.mp4"
        assert read_manifest(path, videos=videos)[0].path.is_file()


def test_everything_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches names without a folder, which are what people type."""
    monkeypatch.chdir(touch(tmp_path, "a.mp4"))
    write(Path("clips.csv"), "path,text\na.mov,a dog\n")
    assert run("import", "csv", "clips.csv", "--field", "video=path", "--out", "m.jsonl") == 0
    assert json.loads(Path("m.jsonl").read_text()) == {"clip_id": "a", "video": "a.mov"}
    arguments = ("import", "csv", "clips.csv", "--field", "video=path", "--videos", ".", "--out", "m.jsonl")
    assert run(*arguments) == 0
    assert json.loads(Path("m.jsonl").read_text()) == {"clip_id": "a", "video": "a.mp4"}
    assert run("subset", "m.jsonl", "--share", "1", "--out", "copy.jsonl") == 0
    assert Path("copy.jsonl").read_bytes() == Path("m.jsonl").read_bytes()
    capsys.readouterr()
    assert run("stats", "copy.jsonl", "--videos", ".", "--json") == 0
    assert json.loads(capsys.readouterr().out)["media"] == {"checked": True, "missing": 0, "examples": []}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["import"], 2, "needs FORMAT SOURCE... --out MANIFEST"),
        (["import", "msrvt", "x.json", "--out", "m.jsonl"], 2, "msrvt: no such format; there are clipvip, "),
        (["import", "msrvtt", "x.json", "--out", "m.jsonl"], 1, "x.json: no such file"),
        (["import", "msrvtt", "bad.json", "--out", "m.jsonl"], 1, "bad.json: field '$.videos' is missing"),
        (["import", "msrvtt", "bad.json", "--out", "no/m.jsonl"], 2, "there is no folder no"),
        (["import", "msrvtt", "bad.json", "--out", "m.jsonl", "--merge"], 2, "--merge has no use for msrvtt"),
        (["import", "msrvtt", "bad.json", "--out", "m.jsonl", "--videos", "no"], 1, "no: no such folder of media"),
        (["import", "msrvtt", "bad.json", "--out", "m.jsonl", "--drop-missing"], 2, "--drop-missing needs --videos"),
        (["import", "msrvtt", "bad.json", "--out", "m.jsonl", "--relative-to", "x"], 2, "--relative-to x"),
        (["import", "csv", "bad.json", "--out", "m.jsonl", "--field", "video"], 2, "--field video: write KEY=COLUMN"),
        (["import", "csv", "bad.json", "--out", ".", "--field", "video=path"], 2, "--out .: is a folder"),
        (["import", "msrvtt", "bad.json", "--out", "m.jsonl", "--transcripts", "."], 2, "--transcripts has no use for"),
        (["import", "msrvtt", "bad.json", "--out", "m.jsonl", "--workers", "2"], 2, "--workers has no use without"),
        (["import", "hdvila", "bad.json", "--out", "m.jsonl", "--engine", "local"], 2, "--engine has no use without"),
        (["import", "hdvila", "bad.json", "--out", "m.jsonl", "--address", "auto"], 2, "--address has no use without"),
        (
            ["import", "hdvila", "bad.json", "--out", "m.jsonl", "--transcripts", ".", "--address", "auto"],
            2,
            "--address auto: goes with --engine ray only",
        ),
        (
            ["import", "hdvila", "bad.json", "--out", "m.jsonl", "--transcripts", ".", "--engine", "spark"],
            2,
            "--engine spark: choose local or ray",
        ),
        (["stats", "none.jsonl"], 1, "none.jsonl: no such manifest"),
        (["stats", "bad.json"], 1, "bad.json, line 1: field 'clip_id' is missing"),
        (["subset", "bad.json", "--out", "m.jsonl"], 2, "give either --share"),
        (["subset", "bad.json", "--out", "m.jsonl", "--count", "1"], 1, "bad.json, line 1: field 'clip_id' is missing"),
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
    """Catches tracebacks, wrong exit codes, errors that name nothing, and files left behind by them."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "bad.json", {"video": "x"})
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.json"]
