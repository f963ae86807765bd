"""`clipvip index` and `clipvip search`, as a person types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import clipvip
from clipvip.cli import main
from helpers_model import write_model
from helpers_video import write_audio, write_video


def run(*arguments, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clipvip", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", check=False)


def run_here(monkeypatch, *arguments) -> int:
    """The same without a process of its own, which costs seconds of imports."""
    monkeypatch.setattr(sys, "argv", ["clipvip", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return exit_.value.code


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as people have them: spaces, umlauts, good and bad files; and a model beside it."""
    place = tmp_path_factory.mktemp("Käthes Rechner")
    videos = place / "Meine Vidéos 日本"
    (videos / "Urlaub [2024]").mkdir(parents=True)
    write_video(videos / "kurz.mp4", 12)
    write_video(videos / "Urlaub [2024]" / "größer.mkv", 130)  # 13 s: two windows
    write_audio(videos / "ton.mp4")
    (videos / "leer.mp4").touch()
    (videos / "text.mp4").write_text("not a video")
    whole = write_video(videos / "whole.mp4", 40).read_bytes()
    (videos / "ab.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "whole.mp4").unlink()
    write_model(place / "ein modell")
    write_model(place / "anderes", seed=1)
    return place


def test_index_and_search(place, monkeypatch, capsys):
    """Catches a bad file that ends the run or is passed over in silence, and answers that are not the model's own."""
    index = ("index", "Meine Vidéos 日本", "--model", "ein modell", "--index", "mein index")
    first = run(*index, cwd=place)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("2 videos, 3 segments, 0.00 hours (")
    lines = first.stderr.splitlines()
    assert len(lines) == 4
    for line, name in zip(lines, ["ab.mp4", "leer.mp4", "text.mp4", "ton.mp4"], strict=True):
        assert line.startswith(f"skipped {place / 'Meine Vidéos 日本' / name}: ")

    again = run(*index, "--json", "--strict", cwd=place)
    assert again.returncode == 1
    told = json.loads(again.stdout)
    assert (told["videos"], told["segments"], told["unchanged"]) == (0, 0, 2)
    assert {Path(row["video"]).name for row in told["skipped"]} == {"ab.mp4", "leer.mp4", "text.mp4", "ton.mp4"}

    found = run("search", "the blue square jumps", "--index", "mein index", "-k", 2, "--no-merge", "--json", cwd=place)
    assert found.returncode == 0, found.stderr
    answer = json.loads(found.stdout)
    assert answer.keys() == {"query", "model", "results"}
    assert (answer["query"], answer["model"]) == ("the blue square jumps", str(place / "ein modell"))
    encoder = clipvip.load(place / "ein modell", device="cpu")
    short, long = place / "Meine Vidéos 日本" / "kurz.mp4", place / "Meine Vidéos 日本" / "Urlaub [2024]" / "größer.mkv"
    segments = [(short, 0.0, 1.2), (long, 0.0, 12.0), (long, 1.0, 13.0)]
    scores = encoder.encode_videos(segments) @ encoder.encode_texts(["the blue square jumps"])[0]
    expected = sorted(zip(scores, segments, strict=True), reverse=True)[:2]
    for rank, (row, (score, segment)) in enumerate(zip(answer["results"], expected, strict=True), start=1):
        assert row.keys() == {"rank", "score", "video", "start_s", "end_s", "segment_id", "video_id"}
        assert (row["rank"], row["video"]) == (rank, str(segment[0]))
        assert (row["start_s"], row["end_s"]) == pytest.approx(segment[1:], abs=0.01)
        assert row["score"] == pytest.approx(float(score), abs=1e-5)

    monkeypatch.chdir(place)
    assert run_here(monkeypatch, "search", "a [red] circle", "--index", "mein index") == 0
    table = capsys.readouterr().out
    assert "a [red] circle" in table
    assert table.count("-0:1") == 1  # two windows that share most of their time are one answer
    for arguments in (
        (*index[:2], "--model", "anderes", "--index", "mein index"),
        ("search", "a dog", "--model", "anderes", "--index", "mein index"),
    ):
        assert run_here(monkeypatch, *arguments) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert str(place / "ein modell") in line
        assert "another --index" in line
    assert run_here(monkeypatch, *index, "--window", "5") == 2
    assert "cut into windows of 12 s every 6 s, not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["search", " ", "--index", "nowhere"], 2, "empty"),
        (["search", "a dog", "--index", "nowhere"], 1, "no search index"),
        (["index", "nowhere", "--model", "ein modell", "--index", "new"], 2, "no such file or folder"),
        (["index", "ein modell", "--model", "ein modell", "--index", "new"], 1, "no video files"),
    ],
)
def test_mistakes_are_told_in_one_line(place, monkeypatch, capsys, arguments, code, told):
    """Catches tracebacks, wrong exit codes, and an index folder left behind by a mistake."""
    monkeypatch.chdir(place)
    assert run_here(monkeypatch, *arguments) == code
    [line] = capsys.readouterr().err.splitlines()
    assert told in line
    assert not (place / "new").exists()
    assert not (place / "nowhere").exists()
