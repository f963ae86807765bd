"""`clipvip data shard`, as a person types it: exit codes, JSON, kills."""

from __future__ import annotations

import json
import re
import subprocess
from functools import partial
from pathlib import Path

import pytest

from clipvip.data.shards import ShardSet
from helpers_cli import run_here
from helpers_shards import kill_and_resume, shard_command, write_set

run = partial(run_here, "data", "shard")


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a verb without help."""
    assert run("--help") == 0
    assert "Example: clipvip data shard" in " ".join(capsys.readouterr().out.split())


def test_shard_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a summary that is wrong, bad clips that are not told, and damage that verify does not name."""
    manifest, out = write_set(tmp_path, damaged=True), tmp_path / "shards"
    options = ("--clips-per-shard", 4, "--max-bad-share", 0.2)
    assert run(manifest, "--out", out, *options, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["clips"], summary["shards"], summary["bad_clips"]) == (5, 2, 1)
    bad = [json.loads(line) for line in (out / "bad_clips.jsonl").read_text().splitlines()]
    assert [entry["clip_id"] for entry in bad] == ["broken"]
    assert "broken.mp4" in bad[0]["reason"]
    assert len(ShardSet(out)) == 5

    assert run(manifest, "--out", out, *options) == 0
    assert re.search(r"^5 clips, .* \(tars: 2\)$", printed := capsys.readouterr().out, re.MULTILINE)
    assert "1 bad clips left out" in printed
    assert run("--verify", out) == 0
    (out / "shard-000001.tar").write_bytes(b"x")
    assert run("--verify", out) == 1
    assert "shard-000001.tar: missing, or not as it was written" in capsys.readouterr().err


def test_media_elsewhere(tmp_path: Path) -> None:
    """Catches --videos passed over, and sources that are not relative to it."""
    manifest = write_set(tmp_path / "a")
    manifest = manifest.rename(tmp_path / "set.jsonl")
    assert run(manifest, "--videos", tmp_path / "a", "--out", tmp_path / "out", "--as", "frames") == 0
    clip, frames = ShardSet(tmp_path / "out").load(0)
    assert clip.path == Path("media/a.mp4")
    assert len(frames) == 6


def test_a_bad_clip_stops_it_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a policy that is not kept."""
    manifest = write_set(tmp_path, damaged=True)
    assert run(manifest, "--out", tmp_path / "out", "--on-decode-error", "raise") == 1
    assert "broken.mp4" in capsys.readouterr().err
    assert not (tmp_path / "out" / "shards.json").exists()


@pytest.mark.parametrize(
    "options",
    [
        (), ("set.jsonl",), ("set.jsonl", "--out", "x", "--as", "audio"), ("set.jsonl", "--out", "x", "--fps", "0"),
        ("set.jsonl", "--out", "x", "--short-side", "1"), ("set.jsonl", "--out", "x", "--on-decode-error", "hide"),
        ("set.jsonl", "--out", "x", "--workers", "0"), ("set.jsonl", "--out", "no/where"),
        ("set.jsonl", "--out", "set.jsonl"), ("set.jsonl", "--verify", "x"),
        ("set.jsonl", "--out", "x", "--max-bad-share", "2"), ("--verify", "x", "--fps", "3"),
        ("set.jsonl", "--out", "x", "--on-decode-error", "raise", "--max-bad-share", "0.1"),
    ],
)  # fmt: skip
def test_wrong_usage(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches values that are accepted and ignored, and a folder made for nothing."""
    write_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(*options) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_another_job_in_the_folder(tmp_path: Path) -> None:
    """Catches shards of two settings side by side."""
    manifest = write_set(tmp_path)
    subprocess.run(shard_command(manifest, tmp_path / "out", "--as", "frames"), check=True, capture_output=True)
    done = subprocess.run(shard_command(manifest, tmp_path / "out"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "holds another job (different: settings" in done.stderr


def test_killed_and_started_again(tmp_path: Path) -> None:
    """Catches clips lost, halved or doubled by a kill, and an index of other bytes than there are."""
    kill_and_resume(tmp_path, kills=4, seed=0)
