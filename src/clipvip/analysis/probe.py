"""Does a model see time? What its scores do when its frames come in another order, or one frame is all it gets.

The frames are those the processor samples; only their order changes, so whatever a model sees in single frames stays.
A model that pools frames without regard to order moves under "frozen" alone.

Shapes: V videos, Q queries (captions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np

from clipvip.analysis.frame_orders import ORDERS, PLAIN, encode_orders
from clipvip.encode import Encoder
from clipvip.errors import ManifestError
from clipvip.evaluation import Retrieval, retrieval_ranks, score_gallery, twin_accuracy
from clipvip.evaluation.intervals import bootstrap_intervals, paired_difference
from clipvip.records import Clip

RESOLUTION = 1e-5
"""A score that moved by no more counts as unmoved: embeddings of one clip agree so closely in float32, whatever the
order of the additions and the machine. The largest movement, as it was computed, stands beside (`Change.largest`)."""
_MEAN = "MnR"  # as a metric of paired_difference: the mean, of any number a query has


@dataclass(frozen=True, slots=True)
class Change:
    """What one order of the frames does.

    mean_abs, mean: of the change of the true caption's score (cosine), over captions; intervals: 95 %, over videos.
    relative: mean_abs / spread. unmoved: share of captions whose score counts as unmoved (see RESOLUTION). largest: the
    largest change of a score, as computed. recall: R@1 (t2v, percent) with all videos of the gallery changed. twins:
    twin accuracy. scores: of each caption with its own video, [Q].
    """

    name: str
    mean_abs: float
    mean_abs_interval: tuple[float, float]
    mean: float
    mean_interval: tuple[float, float]
    relative: float | None
    unmoved: float
    largest: float
    recall: float
    recall_change: float
    recall_change_interval: tuple[float, float]
    twins: float | None
    scores: np.ndarray


@dataclass(frozen=True, slots=True)
class Probe:
    """The findings. plain: with the frames in order. recall, twins: its figures; recall_interval: 95 %, over videos.

    spread: standard deviation of a caption's scores over the gallery, mean over captions: what a change is large or
    small against. num_still: videos of a single frame, which no order changes.
    """

    plain: Retrieval
    seed: int
    recall: float
    recall_interval: tuple[float, float]
    twins: float | None
    spread: float
    num_still: int
    scores: np.ndarray
    changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "fingerprint": self.plain.fingerprint,
            "num_texts": len(self.plain.texts),
            "num_videos": len(self.plain.clips),
            "num_still": self.num_still,
            "skipped": dict(self.plain.skipped),
            "seed": self.seed,
            "spread": self.spread,
            "resolution": RESOLUTION,
            "plain": {"R@1": self.recall, "R@1_interval": self.recall_interval, "twin_accuracy": self.twins},
            "orders": {
                change.name: {
                    "mean_abs_change": change.mean_abs,
                    "mean_abs_change_interval": change.mean_abs_interval,
                    "mean_change": change.mean,
                    "mean_change_interval": change.mean_interval,
                    "relative_change": change.relative,
                    "unmoved": change.unmoved,
                    "largest_change": change.largest,
                    "R@1": change.recall,
                    "R@1_change": change.recall_change,
                    "R@1_change_interval": change.recall_change_interval,
                    "twin_accuracy": change.twins,
                }
                for change in self.changes
            },
        }


def probe_time(
    encoder: Encoder,
    clips: Sequence[Clip],
    *,
    join_captions: bool = False,
    seed: int = 0,
    batch_size: int = 4,
    on_decode_error: Literal["raise", "skip"] = "raise",
    progress: Callable[[int, int], None] = lambda count, total: None,
) -> Probe:
    """Score captions against videos whose frames come in order, and in every one of `ORDERS`.

    join_captions: one query a clip, its captions joined. seed: of the shuffled order, which hangs on it and the clip_id
    alone, and of the intervals. batch_size: clips in one pass through the model, in all orders. progress: is told how
    many clips more are encoded, and of how many.
    Raises: ManifestError if a clip has no captions or the gallery is a single video; VideoDecodeError.
    """
    if len(clips) < 2:
        raise ManifestError(f"{len(clips)} clip: a probe compares a caption's scores over several videos")
    for clip in clips:
        if not clip.captions:  # not after all the work
            raise ManifestError(f"{clip.clip_id}: no 'captions' to score it with; remove the clip or add one")
    ordered = encode_orders(encoder, clips, seed, batch_size, on_decode_error, lambda: progress(1, len(clips)))
    encode_texts = cache(encoder.encode_texts)  # the texts of all orders are the same

    def retrieve(order: str) -> Retrieval:
        return score_gallery(ordered.of(order), clips, encode_texts, join_captions=join_captions)

    plain = retrieve(PLAIN)
    ranks = _ranks(plain)
    recall = bootstrap_intervals(ranks, plain.text_to_video, seed=seed)["R@1"]
    return Probe(
        plain=plain,
        seed=seed,
        recall=_recall(ranks),
        recall_interval=(recall.low, recall.high),
        twins=twin_accuracy(plain),
        spread=_spread(plain),
        num_still=ordered.num_still,
        scores=_own_scores(plain),
        changes=tuple(compare_orders(name, plain, retrieve(name), seed) for name in ORDERS),
    )


def compare_orders(name: str, plain: Retrieval, other: Retrieval, seed: int = 0) -> Change:
    """What became of the scores: the same queries and gallery, with the frames in order and in another one."""
    owners, spread = plain.text_to_video, _spread(plain)
    before = _own_scores(plain)
    largest = float(np.abs(_own_scores(other) - before).max())
    # One rule for all figures: what counts as unmoved must not swap two videos that score alike either.
    unmoved = np.abs(other.similarity - plain.similarity) <= RESOLUTION
    found = replace(other, similarity=np.where(unmoved, plain.similarity, other.similarity))
    now, ranks = _own_scores(found), _ranks(found)
    size = np.abs(now - before)
    absolute = paired_difference(size, np.zeros_like(size), _MEAN, owners, seed=seed)
    signed = paired_difference(now, before, _MEAN, owners, seed=seed)
    recall = paired_difference(ranks, _ranks(plain), "R@1", owners, seed=seed)
    return Change(
        name=name,
        mean_abs=absolute.value,
        mean_abs_interval=(absolute.low, absolute.high),
        mean=signed.value,
        mean_interval=(signed.low, signed.high),
        relative=absolute.value / spread if spread > 0 else None,
        unmoved=float(np.mean(size == 0)),
        largest=largest,
        recall=_recall(ranks),
        recall_change=recall.value,
        recall_change_interval=(recall.low, recall.high),
        twins=twin_accuracy(found),
        scores=now,
    )


def _own_scores(retrieval: Retrieval) -> np.ndarray:
    """Of each query with its own video, float64 [Q]."""
    owners = retrieval.text_to_video
    return retrieval.similarity[np.arange(len(owners)), owners].astype(np.float64)


def _ranks(retrieval: Retrieval) -> np.ndarray:
    return retrieval_ranks(retrieval.similarity, retrieval.text_to_video)["t2v"]


def _recall(ranks: np.ndarray) -> float:
    return float(100.0 * np.mean(ranks <= 1))


def _spread(retrieval: Retrieval) -> float:
    return float(retrieval.similarity.std(axis=1, dtype=np.float64).mean())
