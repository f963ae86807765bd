"""Ranks written, read and compared; and the report that is made of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clipvip.errors import InputError, UsageError
from clipvip.evaluation import Retrieval, rank_retrieval, report_retrieval, retrieval_metrics
from clipvip.evaluation.protocol import label
from clipvip.evaluation.saved import differences, read_ranks, write_ranks
from clipvip.records import Clip

SCORES = np.array([[0.9, 0.1, 0.2], [0.3, 0.4, 0.8], [0.5, 0.6, 0.1], [0.2, 0.7, 0.7]], np.float32)
OWNERS = np.array([0, 0, 1, 2])


def retrieval(scores: np.ndarray = SCORES, bank: np.ndarray | None = None) -> Retrieval:
    """Three videos; the first has two captions."""
    clips = tuple(Clip(f"clip{i}", video=Path(f"{i}.mp4"), captions=("x",)) for i in range(3))
    texts = ("a dog", "a “red” dog", "a cat", "two cats")
    return Retrieval(clips, texts, OWNERS, scores, "f", {}, bank)


def test_a_line_has_the_query_its_ranks_and_the_first_answer(tmp_path: Path) -> None:
    """Catches ranks of one query beside the text of another, and a best caption that is not the video's own."""
    found = retrieval()
    write_ranks(tmp_path / "r.jsonl", found, rank_retrieval(found, rescore=("dsl",)), "average")
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["rank"]["plain"] for row in rows] == [1.0, 3.0, 1.0, 1.5, 1.0, 2.0, 2.0]
    assert set(rows[1].pop("rank")) == {"plain", "dsl"}
    assert rows[1] == {
        "direction": "t2v", "query": 1, "text": "a “red” dog", "clip_id": "clip0", "ties": "average",
        "score": pytest.approx(0.3), "best": "clip2", "best_score": pytest.approx(0.8),
    }  # fmt: skip
    assert rows[4]["text"] == "a dog"  # the better one of the video's two
    assert (rows[5]["direction"], rows[5]["clip_id"], rows[5]["text"]) == ("v2t", "clip1", "a cat")
    assert (rows[5]["score"], rows[5]["best"]) == (pytest.approx(0.6), "two cats")


def test_two_files_are_compared_query_by_query(tmp_path: Path) -> None:
    """Catches a sign turned round, and kinds of scores that are compared with each other."""
    other = retrieval(np.flip(SCORES, axis=1).copy())
    write_ranks(tmp_path / "other.jsonl", other, rank_retrieval(other), "average")
    found = retrieval()
    rivals = rank_retrieval(found, rescore=("dsl",))
    compared = differences(found, rivals, "average", read_ranks(tmp_path / "other.jsonl"))
    assert list(compared) == ["plain"]  # the other has no dsl
    ours, theirs = (retrieval_metrics(of.similarity, OWNERS) for of in (found, other))
    for direction in ("t2v", "v2t"):
        for name, interval in compared["plain"][direction].items():
            assert interval.value == pytest.approx(ours[direction][name] - theirs[direction][name])


def test_other_queries_or_ties_are_refused(tmp_path: Path) -> None:
    """Catches a difference of figures that were never asked the same."""
    found = retrieval()
    rivals = rank_retrieval(found)
    write_ranks(tmp_path / "r.jsonl", found, rivals, "average")
    saved = read_ranks(tmp_path / "r.jsonl")
    with pytest.raises(InputError, match="ranks with ties=average, these have ties=optimistic"):
        differences(found, rivals, "optimistic", saved)
    moved = Retrieval(found.clips, found.texts[::-1], OWNERS, SCORES, "f")
    with pytest.raises(InputError, match=r"r\.jsonl: its 4 t2v queries are not these 4, in this order"):
        differences(moved, rivals, "average", saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "ranks under 0 policies of ties"),
        ('{"clip_id": "a", "video": "a.mp4"}\n', "line 1: no rank as"),
        ("no JSON\n", "line 1: no rank as"),
        ("[1]\n", "line 1: no rank as"),
    ],
)
def test_another_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    """Catches a manifest, or half a file, taken for ranks."""
    (tmp_path / "r.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        read_ranks(tmp_path / "r.jsonl")


def test_the_report_labels_every_kind_and_counts_ties() -> None:
    """Catches a re-scored figure that passes for a plain one, and ties that nobody hears of."""
    scores = SCORES.copy()
    scores[0, 1] = scores[0, 0] - 5e-7  # nearly tied
    found = retrieval(scores, bank=np.ones((1500, 3), np.float32))
    rivals = rank_retrieval(found, rescore=("dsl", "qbnorm"))
    report = report_retrieval(found, rivals, ties="average")
    assert report["labels"] == {
        "plain": "plain",
        "dsl": "transductive (DSL)",
        "qbnorm": "bank-based (QB-Norm, 1,500 texts)",
    }
    assert report["ties"] == {"policy": "average", "tied": {"t2v": 1, "v2t": 0}, "close": {"t2v": 2, "v2t": 0}}
    assert list(report["qbnorm"]) == ["t2v"]  # texts cannot be ranked for a video by a bank of texts
    assert report["intervals"]["drawn"] == "videos, with all their captions"
    for kind in ("plain", "dsl", "qbnorm"):
        for direction, figures in report[kind].items():
            for name, value in figures.items():
                low, high = report["intervals"][kind][direction][name]
                assert low <= value <= high
    json.dumps(report)
    with pytest.raises(InputError, match="one text a video only"):
        report_retrieval(found, rivals, ties="average", released=True)


def test_what_cannot_be_re_scored_is_an_error() -> None:
    """Catches a re-scoring that is left out silently, and a kind without a label."""
    with pytest.raises(UsageError, match="qbnorm needs a bank"):
        rank_retrieval(retrieval(), rescore=("qbnorm",))
    with pytest.raises(UsageError, match="re-scoring 'csls': choose dsl or qbnorm"):
        rank_retrieval(retrieval(), rescore=("csls",))
    with pytest.raises(KeyError):
        label("csls")
