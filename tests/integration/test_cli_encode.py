"""Embedding sets: the same rows however they are made, and taken in place of encoding."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from clipvip.cli import app
from clipvip.data.manifest import read_manifest, write_manifest
from clipvip.embedding_sets import open_embeddings
from clipvip.errors import ManifestError, UsageError
from clipvip.records import Clip
from helpers_model import write_model
from helpers_world import write_tiny_world


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world, two models, and a manifest with one broken video."""
    place = tmp_path_factory.mktemp("place")
    write_tiny_world(place)
    write_model(place / "model")
    write_model(place / "other", seed=1)
    clips = read_manifest(place / "retrieval.jsonl")
    (place / "broken.mp4").write_text("not a video")
    write_manifest(place / "m.jsonl", [*clips[:30], Clip("broken", video=place / "broken.mp4", captions=("a video",))])
    return place


def command(place: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "clipvip", "encode", str(place / "m.jsonl"), "--model", str(place / "model"),
        "--out", str(out), "--part-size", "4", "--json", *more,
    ]  # fmt: skip


def run(*arguments: str | Path) -> dict[str, object]:
    """A verb in this process; what it prints as JSON."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def encode(place: Path, out: Path, *more: str) -> dict[str, object]:
    manifest, model = place / "m.jsonl", place / "model"
    return run("encode", manifest, "--model", model, "--out", out, "--part-size", "4", *more)


def rows(folder: Path) -> dict[tuple[str, str, int], np.ndarray]:
    """Vectors by clip, field and number."""
    table = open_embeddings(folder).table
    keys = zip(*(table[name].to_pylist() for name in ("clip_id", "field", "number")), strict=True)
    return dict(zip(keys, np.array(table["vector"].to_pylist(), np.float32), strict=True))


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """The set from one local process."""
    told = encode(place, place / "whole")
    assert list(told["failures"]) == ["broken"]  # type: ignore[call-overload]
    assert told["clips"] == 31
    return place / "whole"


def assert_same_rows(ours: Path, whole: Path) -> None:
    found, expected = rows(ours), rows(whole)
    assert found.keys() == expected.keys()
    for key, vector in expected.items():
        np.testing.assert_allclose(found[key], vector, atol=1e-6, err_msg=str(key))
    assert open_embeddings(ours).facts[0].failures.keys() == {"broken"}


@pytest.mark.parametrize("engine", [("--workers", "2"), ("--engine", "ray", "--workers", "2")], ids=["local", "ray"])
def test_every_engine_gives_the_same_rows(engine: tuple[str, ...], place: Path, whole: Path, tmp_path: Path) -> None:
    """Catches rows lost, doubled or of another clip when parts are done side by side or on a cluster."""
    subprocess.run(command(place, tmp_path / "set", *engine), check=True, capture_output=True)
    assert_same_rows(tmp_path / "set", whole)


def kill_and_resume(place: Path, whole: Path, out: Path, kills: int) -> None:
    receipts = out / "receipts"
    for _ in range(kills):
        with subprocess.Popen(command(place, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            aim = random.randint(1, 2) + (len(list(receipts.glob("*.json"))) if receipts.exists() else 0)
            while process.poll() is None and len(list(receipts.glob("*.json"))) < aim:
                time.sleep(0.01)  # waiting for another process, not for a guess about its speed
            process.send_signal(signal.SIGKILL)
    with pytest.raises(UsageError, match="no finished embedding set"):
        open_embeddings(out)
    subprocess.run(command(place, out), check=True, capture_output=True)
    assert_same_rows(out, whole)


def test_a_killed_encoding_goes_on(place: Path, whole: Path, tmp_path: Path) -> None:
    """Catches parts lost or done twice, and an unfinished set taken for a finished one."""
    kill_and_resume(place, whole, tmp_path / "set", kills=2)


@pytest.mark.long
def test_an_encoding_killed_ten_times(place: Path, whole: Path, tmp_path: Path) -> None:
    """The same, at ten moments."""
    for number in range(4):
        kill_and_resume(place, whole, tmp_path / str(number), kills=3)


def test_evaluation_takes_a_set_for_a_model(place: Path, whole: Path) -> None:
    """Catches other scores than the model's own, a broken clip that vanishes silently, and one that nobody encoded."""
    common = ("evaluate", "--data", place / "m.jsonl", "--on-decode-error", "skip", "--rescore", "dsl")
    of_model, of_set = run(*common, "--model", place / "model"), run(*common, "--embeddings", whole)
    assert of_set == of_model
    assert list(of_set["skipped"]) == ["broken"]  # type: ignore[call-overload]
    with pytest.raises(ManifestError, match=r"not in .*encode the manifest again"):
        run("evaluate", "--data", place / "retrieval.jsonl", "--embeddings", whole)
    with pytest.raises(UsageError, match="--model M, or else --embeddings"):
        run(*common)


def test_the_index_takes_a_set_for_a_model(place: Path, whole: Path, tmp_path: Path) -> None:
    """Catches segments with other vectors, times or files than those that were encoded."""
    index = tmp_path / "index"
    told = run("index", "--embeddings", whole, "--index", index)
    assert (told["videos"], told["segments"]) == (30, 30)
    assert run("index", "--embeddings", whole, "--index", index)["unchanged"] == 30
    clip = read_manifest(place / "m.jsonl")[3]
    found = run("search", clip.captions[0], "--index", index, "-k", "30")
    texts, videos = rows(whole)[clip.clip_id, "captions", 0], rows(whole)
    [score] = [hit["score"] for hit in found["results"] if hit["video"] == str(clip.path)]  # type: ignore[attr-defined]
    assert score == pytest.approx(float(texts @ videos[clip.clip_id, "media", 0]), abs=1e-5)


def test_sets_of_different_models_do_not_mix(place: Path, whole: Path, tmp_path: Path) -> None:
    """Catches similarities between vectors of different spaces, and parts of two models in one folder."""
    manifest = place / "m.jsonl"
    run("encode", manifest, "--model", place / "other", "--out", tmp_path / "other")
    with pytest.raises(UsageError, match=r"of another model .*do not compare"):
        open_embeddings(whole, tmp_path / "other")
    with pytest.raises(UsageError, match="holds another job"):
        run("encode", manifest, "--model", place / "other", "--out", whole, "--part-size", "4")


def test_sets_of_one_model_join(place: Path, tmp_path: Path) -> None:
    """Catches a library that has to be encoded in one go."""
    for split in ("val", "test"):
        manifest, model = place / "retrieval.jsonl", place / "model"
        run("encode", manifest, "--split", split, "--model", model, "--out", tmp_path / split)
    both = run(
        "evaluate", "--data", place / "retrieval.jsonl", "--split", "test",
        "--embeddings", tmp_path / "val", "--embeddings", tmp_path / "test",
    )  # fmt: skip
    assert both["num_videos"] == 12
    assert os.listdir(tmp_path / "val")
