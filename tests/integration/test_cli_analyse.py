"""`clipvip analyse gap` and `probe`, as a person types them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from clipvip.data.manifest import read_manifest
from helpers_cli import run_here
from helpers_model import write_model
from helpers_world import write_tiny_world


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world with a model."""
    place = write_tiny_world(tmp_path_factory.mktemp("place"))
    write_model(place / "mean", aggregator="mean")
    return place


@pytest.mark.parametrize("verb", ["", "gap", "probe"])
def test_help_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a verb without help."""
    assert run_here("analyse", *([verb] if verb else []), "--help") == 0
    assert "Example: clipvip analyse" in " ".join(capsys.readouterr().out.split())


def test_gap_of_three_sources(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a missing pair, tables that say something else than the JSON, and a run that cannot be repeated."""
    pretrain = place / "pretrain.jsonl"
    texts = tmp_path / "lines.txt"
    texts.write_text(
        "".join(f"{caption}\n" for clip in read_manifest(place / "images.jsonl") for caption in clip.captions)
    )
    sources = (f"{pretrain}:subtitle", f"aux={pretrain}:caption", texts)
    common = ("analyse", "gap", *sources, "--model", place / "mean", "--num-texts", "12", "--draws", "3")
    assert run_here(*common, "--out", tmp_path / "a", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [source["name"] for source in report["sources"]] == ["pretrain:subtitle", "aux", "lines"]
    assert len(report["pairs"]) == 6
    assert all(0 <= pair["nmi"] <= 1 and len(pair["draws"]) == 3 for pair in report["pairs"])
    assert run_here(*common, "--out", tmp_path / "b", "--projection", "pca") == 0
    table = capsys.readouterr().out
    assert "pretrain:subtitle" in table
    assert "itself, halved" in table
    for name in ("gap.json", "gap.csv", "gap.png", "gap.pdf", "projection.csv", "projection.png", "projection.pdf"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    with (tmp_path / "a" / "gap.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["nmi"]) for row in rows] == [pair["nmi"] for pair in report["pairs"]]
    with (tmp_path / "a" / "projection.csv").open(encoding="utf-8", newline="") as file:
        shown = list(csv.DictReader(file))
    assert len(shown) == 36
    assert shown[12]["text"] in {clip.caption for clip in read_manifest(pretrain)}


def test_the_papers_first_table_in_one_call(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a table that has to be put together by hand, one pair of texts after the other."""
    pretrain, tests = place / "pretrain.jsonl", place / "retrieval.jsonl"
    against = ("--against", f"captions={tests}:captions", "--against", f"alt={place / 'images.jsonl'}:captions")
    common = ("analyse", "gap", f"said={pretrain}:subtitle", f"seen={pretrain}:caption", *against)
    settings = ("--model", place / "mean", "--num-texts", "12", "--draws", "2")
    assert run_here(*common, *settings, "--json", "--out", tmp_path / "out") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["columns"]) == (["said", "seen"], ["captions", "alt"])
    assert [len(row) for row in report["matrix"]] == [2, 2]
    assert (tmp_path / "out" / "gap.png").stat().st_size > 0
    assert run_here(*common, *settings) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    for row, values in zip(report["rows"], report["matrix"], strict=True):
        cells = next(line for line in shown if row in line)
        assert all(f"{value:.3f}" in cells for value in values)
    assert run_here("analyse", "gap", f"said={pretrain}:subtitle", *against[:2], *settings) == 0
    assert run_here("analyse", "gap", f"said={pretrain}:subtitle", *settings) == 2
    capsys.readouterr()


def test_embedding_sets_are_sources(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches stored vectors that belong to other texts, and sets of two models in one comparison."""
    common = ("encode", place / "pretrain.jsonl", "--model", place / "mean", "--out", tmp_path / "mean")
    assert run_here(*common) == 0
    facts = json.loads((tmp_path / "mean" / "embeddings.json").read_text())
    shutil.copytree(tmp_path / "mean", tmp_path / "other")
    (tmp_path / "other" / "embeddings.json").write_text(json.dumps(facts | {"fingerprint": "another"}))
    settings = ("--num-texts", "12", "--draws", "2", "--json")
    names = ("subtitle", "caption")
    capsys.readouterr()
    stored = [f"{name}={tmp_path / 'mean'}:{name}" for name in names]
    assert run_here("analyse", "gap", *stored, *settings) == 0
    of_set = json.loads(capsys.readouterr().out)
    encoded = [f"{name}={place / 'pretrain.jsonl'}:{name}" for name in names]
    assert run_here("analyse", "gap", *encoded, "--model", place / "mean", *settings) == 0
    of_model = json.loads(capsys.readouterr().out)
    assert len(of_set["pairs"]) == 3
    for ours, fresh in zip(of_set["pairs"], of_model["pairs"], strict=True):
        assert ours["draws"] == pytest.approx(fresh["draws"])
    assert of_set["fingerprint"] == of_model["fingerprint"]
    mixed = (stored[0], f"caption={tmp_path / 'other'}:caption")
    assert run_here("analyse", "gap", *mixed, *settings) == 2
    assert "of another model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gap", "a.txt"], 2, "two sources or more"),
        (["gap", "a.txt", "b.txt", "--projection", "tsne"], 2, "--projection tsne: is drawn into --out"),
        (["gap", "a.txt", "b.txt"], 1, "a.txt: no such file"),
        (["probe", "missing.jsonl", "--model", "nowhere"], 1, "missing.jsonl: no such manifest"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], code: int, message: str,
) -> None:  # fmt: skip
    """Catches tracebacks and wrong exit codes."""
    monkeypatch.chdir(tmp_path)
    assert run_here("analyse", *arguments) == code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_probe(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a blind model that is said to see, another recall than `evaluate`'s, and scores of other captions."""
    common = ("--split", "test", "--model", place / "mean")
    data = place / "retrieval.jsonl"
    assert run_here("analyse", "probe", data, *common, "--out", tmp_path / "probe", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["orders"]["shuffled"]["mean_abs_change"] == 0.0
    assert report["orders"]["frozen"]["mean_abs_change"] > 0
    assert run_here("evaluate", "--data", data, *common, "--json") == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert report["plain"]["R@1"] == evaluated["plain"]["t2v"]["R@1"]
    assert report["plain"]["twin_accuracy"] == evaluated["twin_accuracy"]
    assert report["fingerprint"] == evaluated["fingerprint"]
    assert json.loads((tmp_path / "probe" / "probe.json").read_text()) == report
    with (tmp_path / "probe" / "probe.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["order"]: row for row in csv.DictReader(file)}
    assert float(rows["frozen"]["mean_change"]) == report["orders"]["frozen"]["mean_change"]
    with (tmp_path / "probe" / "scores.csv").open(encoding="utf-8", newline="") as file:
        scores = list(csv.DictReader(file))
    clips = read_manifest(data, split="test")
    assert [(row["clip_id"], row["caption"]) for row in scores] == [(c.clip_id, t) for c in clips for t in c.captions]
    assert all(row["plain"] == row["reversed"] for row in scores)
    assert {path.suffix for path in (tmp_path / "probe").iterdir()} == {".json", ".csv", ".png", ".pdf"}
    assert run_here("analyse", "probe", data, *common) == 0
    assert "no score moved: reversed" in " ".join(capsys.readouterr().out.split())
