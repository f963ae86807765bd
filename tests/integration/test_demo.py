"""The whole story at its smallest, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo ü") / "out"
    done = subprocess.run(
        [sys.executable, "-m", "clipvip", "demo", "--out", str(out), "--preset", "smoke"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return out, done.stdout


def test_leaves_what_the_contract_names(demo: tuple[Path, str]) -> None:
    """Catches a figure or a file that others rely on and that is no longer written."""
    out, told = demo
    metrics = json.loads((out / "metrics.json").read_text())
    for kind in ("plain", "dsl"):
        for direction in ("t2v", "v2t"):
            assert {"R@1", "R@5", "R@10", "MdR", "MnR", "MeanR@"} <= metrics["test"][kind][direction].keys()
    assert 0 <= metrics["test"]["twin_accuracy"] <= 100
    assert metrics["chance"]["R@1"] == pytest.approx(100 / 60)
    assert metrics["order_blind_ceiling"] == 75.0
    stages = {"world", "warmstart", "pretrain", "finetune", "evaluate", "index", "report", "total"}
    assert stages == metrics["seconds"].keys()
    assert metrics["seconds"]["total"] >= sum(metrics["seconds"][name] for name in stages - {"total"}) - 1
    assert metrics["caption_errors"].keys() == {"shape", "color", "scene", "invented"}
    assert metrics["seed"] == 0
    assert "torch" in metrics["versions"]
    for name in (
        "world/world.json",
        "runs/warmstart/model",
        "runs/pretrain/model",
        "runs/finetune/model",
        "model",
        "index",
    ):
        assert (out / name).exists(), name
    assert "clipvip search" in told


def test_figures_come_with_their_intervals(demo: tuple[Path, str]) -> None:
    """Catches figures of few queries that look as if they were exact, in the report or on the terminal."""
    out, told = demo
    metrics = json.loads((out / "metrics.json").read_text())
    html = (out / "report.html").read_text(encoding="utf-8")
    for kind in ("plain", "dsl"):
        for direction in ("t2v", "v2t"):
            value, (low, high) = metrics["test"][kind][direction]["R@5"], metrics["intervals"][kind][direction]["R@5"]
            assert low < value < high
            assert f"<td>{value:.1f}<br><small>{low:.1f} to {high:.1f}</small></td>" in html
            assert f"{value:.1f} [{low:.1f}, {high:.1f}]" in told


def test_report_is_self_contained(demo: tuple[Path, str]) -> None:
    """Catches a report that needs the network or another file, or that shows nothing."""
    html = (demo[0] / "report.html").read_text(encoding="utf-8")
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("data:image/png;base64,") == 3
    assert html.count("data:image/jpeg;base64,") > 10


def test_evaluate_and_search_agree_with_the_demo(demo: tuple[Path, str]) -> None:
    """Catches a second inference path: the command line must find the demo's own scores and hits."""
    out, _ = demo
    metrics = json.loads((out / "metrics.json").read_text())
    clipvip = [sys.executable, "-m", "clipvip"]
    manifest = str(out / "world" / "retrieval.jsonl")
    done = subprocess.run(
        [*clipvip, "evaluate", "--model", str(out / "model"), "--data", manifest, "--split", "test", "--rescore", "dsl",
         "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert report["plain"] == metrics["test"]["plain"]
    assert report["dsl"] == metrics["test"]["dsl"]
    assert (report["num_texts"], report["num_videos"]) == (60, 60)
    done = subprocess.run(
        [*clipvip, "search", "a red circle grows", "--index", str(out / "index"), "-k", "3", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert [hit["rank"] for hit in found["results"]] == [1, 2, 3]
    assert all(Path(hit["video"]).is_file() for hit in found["results"])


def test_other_seed_or_a_foreign_folder_is_refused(demo: tuple[Path, str], tmp_path: Path) -> None:
    """Catches a demo that deletes what it did not make, or mixes two seeds."""
    (tmp_path / "model").mkdir()
    for folder, told in ((demo[0], "holds a demo with --seed 0"), (tmp_path, "not empty, and no demo of ours")):
        done = subprocess.run(
            [sys.executable, "-m", "clipvip", "demo", "--out", str(folder), "--preset", "smoke", "--seed", "1"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert told in done.stderr
    assert (tmp_path / "model").is_dir()


@pytest.mark.long
def test_moments_benchmark_prints_and_draws(demo: tuple[Path, str], tmp_path: Path) -> None:
    """Catches a benchmark that no longer runs, a row gone, a figure without its numbers."""
    script = [sys.executable, BENCHMARKS / "moments.py", demo[0], f"--out={tmp_path}", "--windows", "5", "16"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ")[:2] for line in done.stdout.splitlines() if line.startswith("| ")]
    ways = [[name, way] for way in ("index", "oracle windows") for name in ("clipvip", "mean", "difference")]
    lengths = ["0.9 s", "2 s", "3.9 s", "7.6 s", "15.1 s", "30.1 s", "with their reversal", "without"]
    assert [rows[0], *rows[2:8]] == [["model", "windows"], *ways]
    assert [row[0] for row in rows[8:]] == ["events", "---", *lengths]
    assert len((tmp_path / "moments.csv").read_text().splitlines()) == 1 + 2 * 2 * 2 * 2 * 6
    assert (tmp_path / "moments.png").exists()


def test_false_alarms_benchmark_prints_its_table(demo: tuple[Path, str], tmp_path: Path) -> None:
    """Catches a benchmark that no longer runs, and queries of a kind that are not counted."""
    script = [sys.executable, BENCHMARKS / "false_alarms.py", demo[0], f"--out={tmp_path}", "--share=0.9"]
    done = subprocess.run([*script, "--libraries=1", "--queries=3"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ")[:3] for line in done.stdout.splitlines() if line.startswith("| ")]
    kinds = ["a colour", "a scene", "a combination", "nothing"]
    assert rows[2:] == [[bank, kind, "3"] for bank in ("clipvip's", "near misses") for kind in kinds]
