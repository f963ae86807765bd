"""`clipvip evaluate` on real files: labels, banks, pages, golden figures, and the same result from any processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from clipvip.cli import app
from clipvip.cli.render.evaluate_errors import write_errors
from clipvip.data.manifest import read_manifest, write_manifest
from clipvip.embedding_sets.layout import SetFacts, schema, write_facts
from clipvip.errors import InputError, ManifestError, UsageError
from clipvip.evaluation import Retrieval, rank_retrieval, report_retrieval
from clipvip.records import Clip
from helpers_model import write_model
from helpers_video import write_videos

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model; `m.jsonl` with a test split (11 clips, one file missing, one to escape in HTML) and a train split."""
    place = tmp_path_factory.mktemp("place")
    write_model(place / "model")
    colours = ["red", "blue", "green", "white", "black", "grey", "pink"]
    write_videos(place, *range(6, 22), width=48, height=32)
    clips = [
        Clip(
            f"clip{number}",
            video=place / ("missing.mp4" if number == 4 else f"{number}.mp4"),
            captions=tuple(
                f"a {colours[(number * 3 + i) % 7]} square <b>{number * i}</b>" for i in range(1 + number % 3)
            ),
            split="test" if number < 11 else "train",
        )
        for number in range(16)
    ]
    write_manifest(place / "m.jsonl", clips)
    write_manifest(
        place / "single.jsonl", [replace(clip, captions=clip.captions[:1]) for clip in clips if clip.clip_id != "clip4"]
    )
    return place


def command(place: Path, *more: str | Path) -> list[str]:
    common = ["evaluate", "--model", place / "model", "--data", place / "m.jsonl", "--split", "test"]
    return [*map(str, [*common, "--on-decode-error", "skip", *more])]


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def evaluate(place: Path, *more: str | Path) -> dict:
    return json.loads(invoke(*command(place, *more, "--json")))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_same(folder: Path, expected: Path) -> None:
    """The same report to the last figure, and the same ranks; the scores agree but for rounding."""
    report, wanted = (json.loads((place / "scores.json").read_text()) for place in (folder, expected))
    assert report == wanted
    ours, theirs = lines(folder / "ranks.jsonl"), lines(expected / "ranks.jsonl")
    for row, other in zip(ours, theirs, strict=True):
        for key in ("score", "best_score"):
            assert row.pop(key) == pytest.approx(other.pop(key), abs=1e-6)
        assert row == other


def test_processes_and_batches_do_not_change_the_result(place: Path, tmp_path: Path) -> None:
    """Catches samples that are cut or padded where 11 clips do not divide by 2, a missing file that shifts the rows of
    one process, and two processes that write the same files.
    """
    folders = [tmp_path / name for name in ("one", "large batches", "two processes")]
    for folder in folders:
        folder.mkdir()

    def options(folder: Path, batch_size: int) -> list[str]:
        files = ["--output", folder / "scores.json", "--ranks", folder / "ranks.jsonl"]
        return command(place, *files, "--rescore", "dsl", "--batch-size", str(batch_size))

    invoke(*options(folders[0], 3))
    invoke(*options(folders[1], 64))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = subprocess.run(
        [*launcher, "-m", "clipvip", *options(folders[2], 3)],
        capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.stdout.count("fingerprint") == 1  # the main process speaks for all
    assert run.stderr.count("skipped clip4") == 1
    report = json.loads((folders[0] / "scores.json").read_text())
    assert (report["num_clips"], report["num_videos"], report["num_texts"]) == (11, 10, 19)
    assert list(report["skipped"]) == ["clip4"]
    assert report["ties"]["close"] == report["ties"]["tied"]  # so rounding decides no rank
    for folder in folders[1:]:
        assert_same(folder, folders[0])


def test_every_kind_of_score_is_labelled(place: Path) -> None:
    """Catches DSL that hides in a table of plain scores, in print and in JSON."""
    bank = ["--bank", place / "m.jsonl", "--bank-split", "train"]
    more = ["--rescore", "dsl", "--rescore", "qbnorm", *bank]
    report = evaluate(place, *more)
    assert report["labels"] == {
        "plain": "plain",
        "dsl": "transductive (DSL)",
        "qbnorm": "bank-based (QB-Norm, 10 texts)",
    }
    assert report["bank"] == {
        "data": str(place / "m.jsonl"),
        "split": "train",
        "num_texts": 10,
        "num_texts_also_queries": 4,  # "a blue square <b>0</b>", and black, red, white
    }
    assert report["sampling"]["num_frames"] == 4
    told = " ".join(invoke(*command(place, *more)).split())
    for words in (
        *report["labels"].values(),
        report["fingerprint"],
        "10 (11 clips",
        "1 of them left out",
        "4 frames of 32",
    ):
        assert words in told, words
    low, high = report["intervals"]["plain"]["t2v"]["R@1"]
    assert f"{report['plain']['t2v']['R@1']:.1f} [{low:.1f}, {high:.1f}]" in told


def test_paragraphs_are_one_query_a_clip(place: Path) -> None:
    """Catches captions joined for the queries and not for the bank, and intervals over the wrong thing."""
    bank = ["--bank", place / "m.jsonl", "--bank-split", "train"]
    report = evaluate(place, "--join-captions", "--rescore", "qbnorm", *bank, "--released-protocol")
    assert report["num_texts"] == report["num_videos"] == 10
    assert report["bank"]["num_texts"] == 5
    assert report["intervals"]["drawn"] == "queries"
    assert report["released"]["plain"]["t2v"]["num_places"] >= 10


def test_ties_are_ranked_as_asked(place: Path, tmp_path: Path) -> None:
    """Catches a policy that does not reach the ranks: two videos of the same file are tied for every text."""
    twice = read_manifest(place / "single.jsonl", split="test")[:1]
    write_manifest(tmp_path / "m.jsonl", [*twice, replace(twice[0], clip_id="again")])
    found = {}
    for ties in ("average", "optimistic", "pessimistic"):
        told = invoke(
            "evaluate", "--model", str(place / "model"), "--data", str(tmp_path / "m.jsonl"), "--ties", ties, "--json"
        )
        report = json.loads(told)
        assert report["ties"] == {"policy": ties, "tied": {"t2v": 2, "v2t": 2}, "close": {"t2v": 2, "v2t": 2}}
        found[ties] = report["plain"]["t2v"]["MnR"]
    assert found == {"average": 1.5, "optimistic": 1.0, "pessimistic": 2.0}


def test_another_model_is_compared_query_by_query(place: Path, tmp_path: Path) -> None:
    """Catches a difference that is not the difference of the figures."""
    write_model(tmp_path / "other", seed=1)
    ranks = tmp_path / "other.jsonl"
    other = evaluate(place, "--model", tmp_path / "other", "--ranks", ranks)
    report = evaluate(place, "--against", ranks)
    compared = report["against"]["plain"]["t2v"]["MnR"]
    assert compared["difference"] == pytest.approx(report["plain"]["t2v"]["MnR"] - other["plain"]["t2v"]["MnR"])
    assert compared["interval"][0] <= compared["difference"] <= compared["interval"][1]
    assert "this model minus that one" in " ".join(invoke(*command(place, "--against", ranks)).split())


def test_the_page_of_errors_is_one_file(place: Path, tmp_path: Path) -> None:
    """Catches captions that become markup, strips that need the videos, and queries that were answered rightly."""
    page, ranks = tmp_path / "e.html", tmp_path / "r.jsonl"
    evaluate(place, "--errors", "5", "--errors-page", page, "--ranks", ranks)
    html = page.read_text(encoding="utf-8")
    worst = sorted((row for row in lines(ranks) if row["direction"] == "t2v"), key=lambda row: -row["rank"]["plain"])
    shown = re.findall(r"<p>rank ([\d.]+)</p>", html)
    assert [float(rank) for rank in shown] == [row["rank"]["plain"] for row in worst[:5]]
    assert html.count("<figure") == 5 * 4
    assert html.count('<figure class="right"') >= 5
    assert html.count("data:image/jpeg;base64,") == 5 * 4
    assert "&lt;b&gt;" in html
    assert "<b>0</b>" not in html
    assert not re.search(r'(src|href)="(?!data:)', html)


def test_a_page_without_the_files_says_so(tmp_path: Path) -> None:
    """Catches a page that fails where embeddings are at hand and the videos are not, after all the work."""
    clips = tuple(Clip(f"c{i}", video=tmp_path / "gone.mp4", captions=(f"text {i}",)) for i in range(3))
    found = Retrieval(clips, ("text 0", "text 1", "text 2"), np.arange(3), np.eye(3)[::-1], "f")
    rivals = rank_retrieval(found)
    facts = {"data": "m.jsonl", "split": None, "model": "m", "fingerprint": "f"}
    report = facts | report_retrieval(found, rivals, ties="average")
    assert (
        write_errors(tmp_path / "e.html", found, rivals["plain"]["t2v"].ranks("average"), report, 20) == 2
    )  # the third is right
    assert (tmp_path / "e.html").read_text(encoding="utf-8").count("gone.mp4: no such file") == 2 * 4


def test_the_released_protocol_reproduces_the_released_figures(tmp_path: Path) -> None:
    """Catches a command that does not give the figures the released code gave for the same 50 embeddings."""
    tensors = load_file(DATA / "io.safetensors")
    recorded = json.loads((DATA / "golden.json").read_text())["metrics"]
    rows = []
    for number, (text, video) in enumerate(
        zip(tensors["metrics.text_feats"], tensors["metrics.vis_feats"], strict=True)
    ):
        common = {"clip_id": f"c{number}", "number": 0, "path": f"{number}.mp4"}
        rows.append({**common, "field": "media", "vector": video})
        rows.append({**common, "field": "captions", "text": f"text {number}", "vector": text})
    (tmp_path / "set").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema(16)), tmp_path / "set" / "embeddings-000000.parquet")
    write_facts(tmp_path / "set", SetFacts("golden", "f", 16, "float32", "m.jsonl", None, 50, 100))
    clips = [Clip(f"c{number}", video=tmp_path / f"{number}.mp4", captions=(f"text {number}",)) for number in range(50)]
    write_manifest(tmp_path / "m.jsonl", clips)
    where = ["--embeddings", str(tmp_path / "set"), "--data", str(tmp_path / "m.jsonl")]
    found = json.loads(invoke("evaluate", *where, "--released-protocol", "--json"))["released"]
    for kind, name in (("plain", "simple"), ("dsl", "DSL")):
        for direction in ("t2v", "v2t"):
            wanted = recorded[name][direction]
            ours = found[kind][direction]
            assert [ours[key] for key in ("R@1", "R@5", "R@10")] == pytest.approx(
                [100 * wanted[key] for key in ("R@1", "R@5", "R@10")]
            )
            assert (ours["MdR"], ours["MnR"]) == pytest.approx((wanted["MedR"], wanted["MeanR"]))


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["--rescore", "csls"], UsageError, "--rescore csls: choose dsl or qbnorm"),
        (["--rescore", "qbnorm"], UsageError, "--rescore qbnorm and --bank MANIFEST go together"),
        (["--bank", "m.jsonl"], UsageError, "--rescore qbnorm and --bank MANIFEST go together"),
        (["--errors-page", "x.html"], UsageError, "--errors-page x.html: goes with --errors N"),
        (["--ranks", "nowhere/r.jsonl"], UsageError, "--ranks nowhere/r.jsonl: there is no folder nowhere"),
        (["--released-protocol"], UsageError, "--released-protocol knows one text a clip, but clip1 has 2"),
        (
            ["--rescore", "qbnorm", "--bank", "M", "--bank-split", "test"],
            ManifestError,
            "'clip0' is in the test gallery",
        ),
        (["--rescore", "qbnorm", "--bank", "M", "--bank-split", "val"], ManifestError, "val"),
        (["--against", "none.jsonl"], FileNotFoundError, "none.jsonl"),
    ],
)
def test_wrong_usage_is_told_before_the_work(
    more: list[str], error: type[Exception], message: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches options that are accepted and ignored, a leaking bank, and errors that come after an hour of encoding."""
    (place / "no model").mkdir(exist_ok=True)
    more = [str(place / "m.jsonl") if word == "M" else word for word in more]
    with pytest.raises(error, match=re.escape(message)):
        invoke(*command(place, "--model", place / "no model", *more))


def test_each_similarity_is_checked_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a pass over the whole matrix, for NaN and infinity, in each of the functions that it goes through."""
    shapes = []
    isfinite = np.isfinite

    def count(values: np.ndarray, *args: object, **options: object) -> np.ndarray:
        shapes.append(np.shape(values))
        return isfinite(values, *args, **options)

    monkeypatch.setattr(np, "isfinite", count)
    data = ["--data", str(place / "single.jsonl"), "--split", "test"]
    bank = ["--rescore", "qbnorm", "--bank", str(place / "m.jsonl"), "--bank-split", "train"]
    invoke("evaluate", "--model", str(place / "model"), *data, "--rescore", "dsl", "--released-protocol", "--json")
    assert shapes.count((10, 10)) == 1
    shapes.clear()
    report = json.loads(invoke("evaluate", "--model", str(place / "model"), *data, *bank, "--json"))
    assert report["bank"]["num_texts"] == 10
    assert shapes.count((10, 10)) == 2  # that of the queries and that of the bank


def test_a_retrieval_is_checked_when_it_is_made() -> None:
    """Catches figures of NaN, since nothing after this looks for it."""
    clips = tuple(Clip(f"c{i}", video=Path("x.mp4"), captions=("x",)) for i in range(2))
    scores, texts = np.eye(2), ("a", "b")
    with pytest.raises(InputError, match=r"similarity\[0, 1\] is nan"):
        Retrieval(clips, texts, np.arange(2), np.array([[1, np.nan], [0, 1]]), "f")
    with pytest.raises(InputError, match=r"text_to_video\[1\] is 2"):
        Retrieval(clips, texts, np.array([0, 2]), scores, "f")
    with pytest.raises(InputError, match=r"bank_similarity\[2, 0\] is inf"):
        Retrieval(clips, texts, np.arange(2), scores, "f", {}, np.array([[0, 0], [0, 0], [np.inf, 0]]))
    with pytest.raises(InputError, match=r"bank_similarity: shape \(2, 3\), expected \(num_bank_texts, 2\)"):
        Retrieval(clips, texts, np.arange(2), scores, "f", {}, np.zeros((2, 3)))
