"""Odd files from the command line: indexed as far as they can be read, found, exported; each trouble costs one file."""

from __future__ import annotations

import json
import os

import pytest

from clipvip.video import probe
from helpers_cli import run_here
from helpers_model import write_model
from helpers_video import write_video


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("odd")
    videos = place / "videos"
    videos.mkdir()
    write_model(place / "model")
    write_video(videos / "plain.mp4", 30, grain=8)
    whole = write_video(place / "whole.mp4", 100, faststart=True, grain=8, g="10").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    parts = [write_video(place / f"{number}.ts", 50, rate=25, grain=8 + number).read_bytes() for number in (0, 1)]
    (videos / "joined.ts").write_bytes(b"".join(parts))
    times = [*range(0, 2000, 40), *range(72_000_000, 72_002_000, 40)]
    write_video(videos / "jump.mkv", 100, times_ms=times, grain=8)
    write_video(videos / ("😀" * 62 + ".mp4"), 10, grain=8)
    os.utime(write_video(videos / "future.mp4", 12, grain=8), ns=(10_413_792_000 * 10**9,) * 2)  # in 2300
    return place


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """`clipvip ...`: exit code, stdout, stderr."""
    capsys.readouterr()
    code = run_here(*arguments)
    return code, *capsys.readouterr()


def test_each_file_is_indexed_as_far_as_it_can_be_read(place, monkeypatch, capsys):
    """Catches a run that ends at one file, a damaged file left out, and hours of video that no file has."""
    monkeypatch.chdir(place)
    index = ("index", "videos", "--model", "model", "--index", "index", "--window", "4", "--json")
    code, out, err = run(capsys, *index)
    told = json.loads(out)
    assert (code, told["videos"], told["skipped"]) == (0, 6, [])
    assert told["hours"] * 3600 < 40
    assert [(row["video"], "cut short" in row["reason"]) for row in told["damaged"]] == [
        (str(place / "videos" / "cut.mp4"), True)
    ]
    assert f"damaged {place / 'videos' / 'cut.mp4'}: the file was cut short" in err
    code, out, _ = run(capsys, "index", "--index", "index", "--json")
    assert (code, json.loads(out)["unchanged"], json.loads(out)["videos"]) == (0, 6, 0)
    code, out, _ = run(capsys, "library", "status", "--index", "index", "--json")
    assert [failure["path"] for failure in json.loads(out)["failures"]] == ["cut.mp4"]
    code, out, _ = run(capsys, "library", "verify", "--index", "index", "--json")
    assert (code, json.loads(out)["sound"]) == (0, True)


def test_one_hit_that_cannot_be_exported_costs_no_other(place, monkeypatch, capsys):
    """Catches an export that ends at the first file that FFmpeg refuses, or that is gone."""
    monkeypatch.chdir(place)
    (place / "videos" / "plain.mp4").rename(place / "plain.mp4")
    words = ("search", "a red circle", "--index", "index", "-k", "20", "--export", "cuts", "--json")
    code, out, err = run(capsys, *words)
    (place / "plain.mp4").rename(place / "videos" / "plain.mp4")
    rows = json.loads(out)["results"]
    assert code == 1
    assert err.count("no clip of result") == 1
    assert "plain.mp4: no such file" in err
    assert len({row["video"] for row in rows}) == 6
    for row in rows:
        assert ("clip" in row) == ("plain.mp4" not in row["video"])
        if "clip" in row:
            assert probe(row["clip"]).num_frames > 0
    jumps = [row for row in rows if row["video"].endswith("jump.mkv")]
    assert 1 <= len(jumps) <= 3
