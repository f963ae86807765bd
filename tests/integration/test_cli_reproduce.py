"""`clipvip reproduce` on stand-ins: the layouts of the published data, tiny real videos, a tiny real checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clipvip.training.state import WorkDir
from helpers_cli import run_here
from helpers_model import write_model
from helpers_reproduce import (
    SHORT,
    write_activitynet,
    write_checkpoint,
    write_didemo,
    write_lsmdc,
    write_msrvtt,
)

FITS = "model.max_text_tokens=32"  # of `write_model`


def test_the_list_and_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a run that is not listed, a plan without its commands, and missing files that are not told."""
    assert run_here("reproduce", "--list", "--json") == 0
    runs = json.loads(capsys.readouterr().out)
    assert len(runs) == 8
    assert runs[-1]["ours"] == "not yet run"
    assert run_here("reproduce", "msrvtt-b32") == 0
    text = capsys.readouterr().out
    assert "accepted  R@1 48.6 to 51.6" in text
    assert "size unknown, SHA-256 unknown" in text
    assert "clipvip train finetune/msrvtt-b32@released model.init=DIR/weights" in text
    (tmp_path / "MSRVTT_data.json").write_text("{}")
    assert run_here("reproduce", "msrvtt-b32", "--data", tmp_path, "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [file["found"] for file in plan["files"]] == [True, False, False, False]
    assert not any(step["done"] for step in plan["steps"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "reproduce needs the NAME"),
        (["msrvtt-b33"], 2, "msrvtt-b33: no such published run"),
        (["msrvtt-b32", "--data", ".", "--workdir", "w"], 1, "MSRVTT_train.9k.csv, MSRVTT_JSFUSION_test.csv"),
        (["msrvtt-b32", "train.stepps=3"], 2, "unknown field 'train.stepps'"),
        (["msrvtt-b32", "--data", ".", "--workdir", "w", "--until", "lunch"], 2, "--until lunch: choose weights"),
        (["msrvtt-b32", "--until", "train"], 2, "--until train: goes with --data"),
        (["msrvtt-b32", "--init", "m", "--tokenizer", "t"], 2, "--tokenizer is for the published checkpoint"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], code: int, message: str,
) -> None:  # fmt: skip
    """Catches tracebacks, wrong exit codes, and work that begins before the question is understood."""
    monkeypatch.chdir(tmp_path)
    assert run_here("reproduce", *arguments) == code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_one_process_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches eight processes that import and evaluate the same things at once."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert run_here("reproduce", "msrvtt-b32", "--data", tmp_path, "--workdir", tmp_path / "w") == 2
    assert "start its `clipvip train` command alone with torchrun" in capsys.readouterr().err


def test_the_whole_chain_from_the_published_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a step that cannot follow the one before or is done twice, and a result that hides what differs."""
    root, work = write_msrvtt(tmp_path / "root"), tmp_path / "work"
    write_checkpoint(root / "pretrain_clipvip_base_32.pt", tmp_path / "tokenizer")
    common = (
        "reproduce",
        "msrvtt-b32",
        *SHORT,
        f"data.mix=[{{data: {work / 'train.jsonl'}, videos: {root / 'videos'}, share: 0.25}}]",
        "--data",
        root,
        "--workdir",
        work,
        "--tokenizer",
        tmp_path / "tokenizer",
    )
    assert run_here(*common, "--until", "manifests") == 0
    assert "done until manifests" in capsys.readouterr().out
    assert not (work / "run").exists()
    made = (work / "train.jsonl").stat().st_mtime_ns
    assert run_here(*common, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (work / "train.jsonl").stat().st_mtime_ns == made
    assert json.loads((work / "result.json").read_text()) == result

    verdict = result["verdict"]
    assert (verdict["paper"], verdict["band"], verdict["comparable"]) == (50.1, [48.6, 51.6], False)
    assert verdict["inside"] == (48.6 <= verdict["R@1"] <= 51.6)
    mixed = {"share": 0.25, "split": "train", "subtitle": "captions", "caption": "captions", "join_captions": False}
    assert verdict["differs"] == [
        f"data.mix: {[mixed]}, published with []",
        "train.batch_size: 4, published with 128",
        "train.epochs: None, published with 100.0",
        "train.steps: 2, published with None",
        "the tokeniser was given, and is not known to be the published openai/clip-vit-base-patch32",
        "train: 6 clips, published with 9,000",
        "train: 12 captions, published with 180,000",
        "test: 4 clips, published with 1,000",
        "test: 4 captions, published with 1,000",
    ]
    assert result["settings"]["optim.decay"] == "released"
    assert (result["training"]["steps"], result["training"]["selected"]) == (2, "last")
    assert result["files"]["videos"]["files"] == 10
    assert all(file["bytes"] > 0 for file in result["files"].values())
    assert str(tmp_path) not in json.dumps(result)  # it is sent to others

    scores = (
        "evaluate",
        "--model",
        work / "run" / "model",
        "--data",
        work / "test.jsonl",
        "--rescore",
        "dsl",
        "--json",
    )
    assert run_here(*scores, "--dtype", "float32") == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["plain"] == result["figures"]["plain"]
    assert evaluated["fingerprint"] == result["model"]["fingerprint"]

    rows = WorkDir(work / "run").read_log()
    assert run_here(*common, "train.log_every=1") == 0  # on which no result hangs
    said = capsys.readouterr()
    assert said.err.count("(done before)") == 5
    assert "but this is not the published run" in said.out
    assert WorkDir(work / "run").read_log() == rows
    assert run_here(*common, "train.seed=1") == 2
    assert "holds another reproduction (overrides was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "layout", "num_texts"),
    [("didemo-b16", write_didemo, 3), ("lsmdc-b32", write_lsmdc, 3), ("activitynet-b16@clipvip", write_activitynet, 3)],
)
def test_the_other_layouts(
    name: str, layout: Callable[[Path], Path], num_texts: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches files, splits or paragraphs that do not come through, and weights of one's own passed over."""
    root, model = layout(tmp_path / "root"), write_model(tmp_path / "model")
    common = ("reproduce", name, *SHORT, FITS, "--data", root, "--workdir", tmp_path / "w", "--init", model)
    assert run_here(*common, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["figures"]["num_texts"] == result["figures"]["num_videos"] == num_texts
    assert result["training"]["selected"] == ("last" if "activitynet" in name else "best")
    assert "the weights to start from are not the published checkpoint" in result["verdict"]["differs"]
    ours = any(told.startswith("loss.reduction: 'mean', published with 'sum'") for told in result["verdict"]["differs"])
    assert ours == name.endswith("@clipvip")


def test_videos_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a smaller test set that nobody is told of, and a work folder in which nobody can go on as told:
    with the videos put right, or without them.
    """
    root, model = write_msrvtt(tmp_path / "root"), write_model(tmp_path / "model")
    missing, broken = root / "videos" / "video0.mp4", root / "videos" / "video9.mp4"
    good = missing.read_bytes()
    missing.unlink()
    broken.write_text("no video")
    common = ("reproduce", "msrvtt-b32", *SHORT, FITS, "--data", root, "--init", model)
    assert run_here(*common, "--workdir", tmp_path / "strict") == 1
    assert "1 of 6 videos of train are not there, such as video0.mp4" in capsys.readouterr().err
    missing.write_bytes(good)
    assert run_here(*common, "--workdir", tmp_path / "strict") == 1
    said = capsys.readouterr().err
    assert "1 of 4 videos cannot be used, such as video9" in said
    assert "go on without them with --on-decode-error skip" in said
    assert run_here(*common, "--workdir", tmp_path / "strict", "--on-decode-error", "skip", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["skipped"] == {"train": 0, "test": 1}
    assert "test: videos that could not be decoded: 1" in result["verdict"]["differs"]
    missing.unlink()
    lenient = (*common, "--workdir", tmp_path / "lenient", "--on-decode-error", "skip", "--json")
    assert run_here(*lenient) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["figures"]["num_videos"] == 3
    assert {"train: videos that were missing: 1", "test: videos that could not be decoded: 1"} <= set(
        result["verdict"]["differs"]
    )
    assert result["skipped"] == {"train": 0, "test": 1}
