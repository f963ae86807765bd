"""All that is reported of a retrieval, as one JSON object: figures, labels, intervals, ties, and what is missing.

Shapes: Q queries, V videos, P places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from clipvip.errors import InputError
from clipvip.evaluation.intervals import RESAMPLES, bootstrap_intervals
from clipvip.evaluation.metrics import DIRECTIONS, Direction, Rivals, check_similarity, count_rivals, summarize_ranks
from clipvip.evaluation.protocol import Retrieval, RivalCounts, chance_level, label, twin_accuracy
from clipvip.evaluation.rescoring import apply_dual_softmax

CLOSE = 1e-6
"""Float32 scores of another batch size or another CPU differ by less: a rank decided by less is a matter of chance."""


def report_retrieval(retrieval: Retrieval, rivals: RivalCounts, *, ties: str, released: bool = False) -> dict[str, Any]:
    """Figures from the rivals that `rank_retrieval` counted. released: also those of the released code.

    Returns: by kind of score ("plain", "dsl", "qbnorm") and direction what `summarize_ranks` has; "labels" of the
    kinds; "intervals" (95 %), [low, high] by kind, direction and name; "ties": the policy, and by direction how many
    queries have a wrong answer that scores as the true one ("tied") or within `CLOSE` of it ("close", tied included);
    "num_texts", "num_videos", "skipped", "chance", and "twin_accuracy" and "released" where they apply.
    Raises: InputError if the released protocol is wanted and a video has several texts.
    """
    similarity, owners = retrieval.similarity, retrieval.text_to_video
    num_texts, num_videos = similarity.shape
    close = {way: count_rivals(similarity, owners, way, within=CLOSE) for way in DIRECTIONS}
    num_bank_texts = 0 if retrieval.bank_similarity is None else len(retrieval.bank_similarity)
    figures: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for kind, ways in rivals.items():
        figures[kind], intervals[kind] = {}, {}
        for way, counts in ways.items():
            ranks = counts.ranks(ties)
            bounds = bootstrap_intervals(ranks, retrieval.groups(way))
            figures[kind][way] = summarize_ranks(ranks)
            intervals[kind][way] = {name: [found.low, found.high] for name, found in bounds.items()}
    report = {
        "num_texts": num_texts,
        "num_videos": num_videos,
        "skipped": dict(retrieval.skipped),
        "ties": {"policy": ties, "tied": _num_tied(rivals["plain"]), "close": _num_tied(close)},
        "chance": chance_level(num_videos),
        "labels": {kind: label(kind, num_bank_texts) for kind in rivals},
        **figures,
        "intervals": {
            "level": 0.95,
            "num_resamples": RESAMPLES,
            "drawn": "queries" if num_texts == num_videos else "videos, with all their captions",
            **intervals,
        },
    }
    twins = twin_accuracy(retrieval)
    if twins is not None:
        report["twin_accuracy"] = twins
    if released:
        if not np.array_equal(owners, np.arange(num_videos)):
            raise InputError("the released protocol knows one text a video only, and these have several")
        report["released"] = _released_figures(similarity, rivals["plain"])
    return report


def released_metrics(similarity: ArrayLike) -> dict[str, dict[Direction, dict[str, float]]]:
    """What the released code would print for a similarity: for comparison with published figures, not for use.

    It differs from ours twice. A query whose true answer is tied counts once for every tied place, so that ties add
    ranks (and, among the best, hits) and the denominator grows with them. And dual softmax is taken over texts for both
    directions. What else it does, that no similarity shows, is not imitated: on several GPUs it drops some test samples
    and counts others twice, and a video that cannot be decoded is replaced by another one.

    similarity: [V, V], text i of video i.
    Returns: {"plain", "dsl"} of both directions as `summarize_ranks`, and "num_places" among which percentages count.
    Raises: InputError for NaN, infinity, or a similarity that is not square.
    Source: CLIP-ViP's released evaluation.
    """
    scores = check_similarity("similarity", similarity)
    if scores.shape[0] != scores.shape[1]:
        raise InputError(f"similarity: shape {scores.shape}; the released protocol knows one text a video only")
    return _released_figures(scores, {way: count_rivals(scores, np.arange(len(scores)), way) for way in DIRECTIONS})


def _released_figures(
    scores: np.ndarray, plain: Mapping[Direction, Rivals]
) -> dict[str, dict[Direction, dict[str, float]]]:
    rescored = apply_dual_softmax(scores, axis=0)
    dsl = {way: count_rivals(rescored, np.arange(len(scores)), way) for way in DIRECTIONS}
    return {"plain": _summarize_places(plain), "dsl": _summarize_places(dsl)}


def _summarize_places(rivals: Mapping[Direction, Rivals]) -> dict[Direction, dict[str, float]]:
    """As if a query had each of the places that its true answer shares with ties, float64 [P], P >= Q, from 1."""
    figures: dict[Direction, dict[str, float]] = {}
    for way, counts in rivals.items():
        num_tied = 1 + counts.equal
        first = np.repeat(1.0 + counts.better, num_tied)
        nth = np.arange(len(first)) - np.repeat(np.cumsum(num_tied) - num_tied, num_tied)
        figures[way] = summarize_ranks(first + nth) | {"num_places": len(first)}
    return figures


def _num_tied(rivals: Mapping[Direction, Rivals]) -> dict[str, int]:
    return {way: int((counts.equal > 0).sum()) for way, counts in rivals.items()}
