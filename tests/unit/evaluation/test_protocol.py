"""Queries, galleries and what is reported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipvip.errors import ManifestError
from clipvip.evaluation import (
    Retrieval,
    chance_level,
    rank_retrieval,
    report_retrieval,
    retrieval_metrics,
    run_retrieval,
    twin_accuracy,
)
from clipvip.records import Clip, Embeddings


class TableEncoder:
    """Looks vectors up by the number in a clip's id or a text's first word."""

    def vectors(self, numbers: Sequence[int]) -> np.ndarray:
        return np.eye(8, dtype=np.float32)[list(numbers)]

    def encode_texts(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        return self.vectors([int(text.split()[0]) for text in texts])

    def encode_clips(
        self, clips: Sequence[Clip], *, progress: bool = False, on_decode_error: str = "raise"
    ) -> Embeddings:
        bad = {c.clip_id: "damaged" for c in clips if "bad" in c.extra and on_decode_error == "skip"}
        good = [c.clip_id for c in clips if c.clip_id not in bad]
        return Embeddings(tuple(good), self.vectors([int(number) for number in good]), "f", bad)


def clip(number: int, *captions: str, **extra: str) -> Clip:
    return Clip(str(number), video=Path("x.mp4"), captions=captions, extra=extra)


def report(found: Retrieval, *rescore: str) -> dict[str, Any]:
    return report_retrieval(found, rank_retrieval(found, rescore=rescore), ties="average")


def test_every_caption_is_a_query_or_all_are_one() -> None:
    """Catches captions dropped, or owners shifted by clips with several captions."""
    clips = [clip(0, "0 a", "0 b"), clip(1, "2 wrong"), clip(2, "2 c")]
    found = run_retrieval(TableEncoder(), clips)
    assert found.texts == ("0 a", "0 b", "2 wrong", "2 c")
    assert found.text_to_video.tolist() == [0, 0, 1, 2]
    assert report(found)["plain"]["t2v"]["R@1"] == 75.0
    joined = run_retrieval(TableEncoder(), clips, join_captions=True)
    assert joined.texts == ("0 a 0 b", "2 wrong", "2 c")


def test_equal_texts_are_encoded_once_and_tied() -> None:
    """Catches a tie that rounding decides, by the place of a text in its batch; and rows that are mixed up by that."""

    class Noisy(TableEncoder):
        def encode_texts(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
            noise = 1e-7 * np.arange(len(texts), dtype=np.float32)[:, None]
            return super().encode_texts(texts) + noise

    clips = [clip(0, "0 a"), clip(1, "1 b", "0 a"), clip(2, "2 c")]
    found = run_retrieval(Noisy(), clips, bank=["2 c", "1 x", "2 c"])
    assert found.similarity[0].tolist() == found.similarity[2].tolist()
    assert found.similarity.argmax(axis=1).tolist() == [0, 1, 0, 2]
    assert found.bank_similarity is not None
    assert found.bank_similarity.argmax(axis=1).tolist() == [2, 1, 2]
    assert rank_retrieval(found)["plain"]["v2t"].ranks("average").tolist() == [1.5, 1.0, 1.0]


def test_skipped_clips_take_their_captions_along() -> None:
    """Catches queries without a video, owners that are shifted, and an N that shrinks without a word."""
    found = run_retrieval(
        TableEncoder(), [clip(0, "0"), clip(1, "1", bad="yes"), clip(2, "2 a", "2 b")], on_decode_error="skip"
    )
    assert found.texts == ("0", "2 a", "2 b")
    assert [c.clip_id for c in found.clips] == ["0", "2"]
    assert found.skipped == {"1": "damaged"}
    assert report(found)["plain"]["t2v"]["R@1"] == 100.0


def test_a_clip_without_captions_stops_the_evaluation() -> None:
    """Catches an N that shrinks silently."""
    with pytest.raises(ManifestError, match="1: no 'captions'"):
        run_retrieval(TableEncoder(), [clip(0, "0"), clip(1)])


def test_twin_accuracy_counts_only_twins_in_the_gallery() -> None:
    """Catches twins looked up by row instead of by id, and ties counted as right."""
    clips = [clip(0, "0", twin="1"), clip(1, "0", twin="0"), clip(2, "5", twin="3"), clip(3, "5", twin="2")]
    clips += [clip(4, "4", twin="absent"), clip(5, "5")]
    found = run_retrieval(TableEncoder(), clips)
    assert twin_accuracy(found) == 100 * (1 + 0 + 0.5 + 0.5) / 4
    assert "twin_accuracy" in report(found)
    assert twin_accuracy(run_retrieval(TableEncoder(), clips[4:])) is None
    assert "twin_accuracy" not in report(run_retrieval(TableEncoder(), clips[4:]))


def test_dual_softmax_is_taken_over_the_queries_of_each_direction() -> None:
    """Catches one matrix for both directions, as the released code has it: t2v is over texts, v2t over videos."""
    similarity = np.random.default_rng(0).uniform(-0.1, 0.1, (40, 25))
    owners = np.arange(40) % 25
    clips = tuple(clip(number, "x") for number in range(25))
    found = Retrieval(clips, tuple("x" * 40), owners, similarity, "f")

    def ranked(direction: str, axis: int) -> dict[str, float]:
        weights = np.exp(100 * similarity)
        return retrieval_metrics(similarity * weights / weights.sum(axis=axis, keepdims=True), owners)[direction]

    scores = report(found, "dsl")
    assert scores["dsl"] == {"t2v": ranked("t2v", axis=0), "v2t": ranked("v2t", axis=1)}
    assert scores["dsl"]["t2v"] != ranked("t2v", axis=1)
    assert scores["dsl"]["v2t"] != ranked("v2t", axis=0)
    assert scores["plain"] == retrieval_metrics(similarity, owners)
    assert "dsl" not in report(found)


def test_chance() -> None:
    """Catches chance levels above 100 % on tiny galleries."""
    assert chance_level(500) == {"R@1": 0.2, "R@5": 1.0, "R@10": 2.0, "MdR": 250.5}
    assert chance_level(4)["R@10"] == 100.0
