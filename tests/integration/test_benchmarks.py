"""The benchmarks still run; what they measure is nobody's business here."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers_model import write_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_encoder_benchmark_prints_its_tables() -> None:
    """Catches a benchmark that no longer runs: a function renamed, a peer whose embeddings differ, a row gone."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "encoder.py", "--model=small", "--repeats=1", "--only", "inference", "text"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ")[0].removeprefix("| ") for line in done.stdout.splitlines() if line.startswith("| ")]
    ours = ["clipvip, fp32", "clipvip optimised, fp32", "clipvip optimised, bf16"]
    assert rows == [
        *["form", "---", "transformers CLIPVisionModel, fp32", "dense mask in transformers' layers, fp32", *ours],
        *["form", "---", "transformers CLIPTextModel, fp32", *ours],
    ]


def test_operations_of_the_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a part of the tower counted twice or left out: a clip of 12 frames, counted by hand for both sizes."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from measure import tower_flops
    from peers import config_of

    gigaflops = {
        size: [tower_flops(config_of(size), 1, 12, training) / 1e9 for training in (False, True)]
        for size in ("b32", "b16")
    }
    assert gigaflops == {"b32": pytest.approx([97.5, 289.7], abs=0.05), "b16": pytest.approx([391.4, 1171.5], abs=0.05)}


def test_decoding_benchmark_prints_its_tables(tmp_path: Path) -> None:
    """Catches a benchmark that no longer runs: a function renamed, frames that differ, a row gone."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "decode.py", "--repeats=1", "--clips=h264-240p-10s", f"--files={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ")[0].removeprefix("| ") for line in done.stdout.splitlines() if line.startswith("| ")]
    peer = ["decord2"] if find_spec("decord") else []
    ours = [f'clipvip, resize_in="decoder"{more}' for more in ("", ", index known", ", to float pixels")]
    ways = ["way", "---", "PyAV, sequential", *peer, *ours, 'clipvip, resize_in="tensor", to float pixels']
    headline = ["clip", "---", "h264-240p-10s"]
    assert rows == [*ways, *headline, *ways, *headline, "worker processes", "---", "1", "2"]


def test_gradient_caching_benchmark_prints_its_tables() -> None:
    """Catches a benchmark that no longer runs: a function renamed, gradients that differ, a row gone."""
    sizes = ["--model=small", "--micro-batch=2", "--plain-batches=4", "--batches=8", "--time-batch=8", "--repeats=1"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gradcache.py", *sizes], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    memory, cached = [line[:2] for line in lines[:4]], "cached, micro-batch 2"
    assert memory == [["form", "batch"], ["---", "---"], ["plain", "4"], [cached, "8"]]
    assert [line[0] for line in lines[4:]] == ["form", "---", "plain", cached]


def test_metrics_benchmark_prints_its_table() -> None:
    """Catches a benchmark that no longer runs: a function renamed, a row gone."""
    sizes = ["--texts=300", "--videos=100", "--only", "retrieval_metrics"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "metrics.py", *sizes], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ")[0] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows == ["function", "---", "retrieval_metrics"]


def test_scaling_tables_are_those_of_the_docs(tmp_path: Path) -> None:
    """Catches docs/scaling.md quoting what the code no longer counts, and a measurement that no longer runs."""
    script = [sys.executable, BENCHMARKS / "scaling.py", f"--measure={tmp_path}", "--clip=h264-240p-10s", "--repeats=1"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counted, measured = done.stdout.split("\ntorch ")
    rows = [line for line in counted.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 * (2 + 6)
    page = (BENCHMARKS.parent / "docs" / "scaling.md").read_text().splitlines()
    assert [row for row in rows if row not in page and not set(row) <= set("| -")] == []
    assert [line.split(" | ")[0] for line in measured.splitlines() if line.startswith("| shard")] == [
        "| shard, --short-side 224",
        "| shard, --short-side 224 --fps 6",
        "| shard, --short-side 224 --fps 3",
        "| shard, --short-side 224 --fps 3 --as frames",
    ]


def test_indexing_benchmark_prints_its_table(tmp_path: Path) -> None:
    """Catches a benchmark that no longer runs, and files that count once because their content is the same."""
    options = ["--clip=h264-240p-10s", "--files=2", "--loops=1", "--repeats=1", f"--folder={tmp_path}"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "indexing.py", "--model", write_model(tmp_path / "model"), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ")[0].removeprefix("| ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows[2:] == ["decoder alone", "indexing"]
    assert "(0.5 minutes)" in done.stdout
    assert ": 4 segments" in done.stdout


def test_search_benchmark_prints_its_table(tmp_path: Path) -> None:
    """Catches a benchmark that no longer runs: a function renamed, a row gone, answers that are not the nearest."""
    script = [sys.executable, BENCHMARKS / "search.py", "--rows=2000", f"--files={tmp_path}", "--queries=5"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    filters = ["no filter", "1% by date", "10% by date", "50% by date", "10% by path"]
    ours = [filters[0], "no filter, merged", *filters[1:]]
    assert [row[:2] for row in rows] == [["clipvip", name] for name in ours] + [
        ["NumPy, exact", name] for name in filters
    ]
    assert {row[4] for row in rows} == {"1.000", ""}
    assert not list(tmp_path.iterdir())
