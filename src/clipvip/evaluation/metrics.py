"""Ranks and their summary. One query, one rank, whatever the ties.

Shapes: N texts, V videos, Q queries (N of t2v; of v2t the videos with a caption). All passes go over blocks of rows,
so no temporary has the size of the similarity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from clipvip.errors import InputError, UsageError

Direction = Literal["t2v", "v2t"]
DIRECTIONS: tuple[Direction, ...] = ("t2v", "v2t")
TIES = {"average": 0.5, "optimistic": 0.0, "pessimistic": 1.0}
"""The share of its ties that ranks above the true answer."""

_BLOCK_ENTRIES = 1 << 22


def retrieval_metrics(
    similarity: ArrayLike,
    text_to_video: ArrayLike | None = None,
    *,
    similarity_v2t: ArrayLike | None = None,
    ties: str = "average",
) -> dict[str, dict[str, float]]:
    """Recall and rank of both directions; arguments, queries and errors as in `retrieval_ranks`.

    Returns: {"t2v": {...}, "v2t": {...}}, each as `summarize_ranks` has it.
    """
    ranks = retrieval_ranks(similarity, text_to_video, similarity_v2t=similarity_v2t, ties=ties)
    return {direction: summarize_ranks(of_queries) for direction, of_queries in ranks.items()}


def summarize_ranks(ranks: np.ndarray) -> dict[str, float]:
    """Recall, mean and median of the ranks of some queries, [Q].

    Returns: "R@1", "R@5", "R@10" (percent of queries with rank <= K), "MeanR@" (the mean of the three), "MdR" and "MnR"
    (median and mean rank).
    """
    recalls = {f"R@{k}": float(100.0 * np.mean(ranks <= k)) for k in (1, 5, 10)}
    mean_recall = sum(recalls.values()) / len(recalls)
    return recalls | {"MeanR@": mean_recall, "MdR": float(np.median(ranks)), "MnR": float(np.mean(ranks))}


def retrieval_ranks(
    similarity: ArrayLike,
    text_to_video: ArrayLike | None = None,
    *,
    similarity_v2t: ArrayLike | None = None,
    ties: str = "average",
) -> dict[str, np.ndarray]:
    """The rank of each query's true answer: 1 + strictly better + a share of its ties.

    similarity: [N, V]; text_to_video: int [N], each text's video (default: the diagonal of a square similarity).
    similarity_v2t: another [N, V] to rank v2t by (re-scored). ties: share that ranks above the true answer,
    "average" half, "optimistic" none, "pessimistic" all; "average" ranks may be fractional.
    v2t: the best true caption of a video counts, its other captions are no rivals; a video without any caption is a
    candidate of t2v, but no v2t query.

    Returns: {"t2v": float64 [N], "v2t": float64 [videos with a caption], in index order}.
    Raises: InputError for NaN, infinity, shapes and indices out of range; UsageError for an unknown `ties`.
    """
    check_ties(ties)
    scores = check_similarity("similarity", similarity)
    scores_v2t = scores if similarity_v2t is None else check_similarity("similarity_v2t", similarity_v2t)
    if scores_v2t.shape != scores.shape:
        raise InputError(f"similarity_v2t: shape {scores_v2t.shape}, expected {scores.shape} like similarity")
    owners = check_owners(text_to_video, scores.shape)
    return {
        "t2v": count_rivals(scores, owners, "t2v").ranks(ties),
        "v2t": count_rivals(scores_v2t, owners, "v2t").ranks(ties),
    }


@dataclass(frozen=True, slots=True)
class Rivals:
    """For each query, how many wrong answers score above the true one, and how many the same: int64 [Q] each."""

    better: np.ndarray
    equal: np.ndarray

    def ranks(self, ties: str) -> np.ndarray:
        """float64 [Q]; ties as in `retrieval_ranks`."""
        check_ties(ties)
        return 1.0 + self.better + TIES[ties] * self.equal


def count_rivals(scores: np.ndarray, owners: np.ndarray, direction: Direction, *, within: float = 0.0) -> Rivals:
    """The rivals of one direction; queries as in `retrieval_ranks`.

    scores [N, V] and owners [N] are checked already (`check_similarity`, `check_owners`). within: scores that differ by
    no more count as equal.
    """
    texts = np.arange(len(owners))
    queries, answers = (texts, owners) if direction == "t2v" else (owners, texts)  # [N]: pairs that belong together
    if direction == "v2t":
        scores = scores.T
    true = scores[queries, answers]  # [N]
    best = np.zeros(len(scores), scores.dtype)
    best[queries] = true  # one of a query's true answers ...
    np.maximum.at(best, queries, true)  # ... and then the best of them: [Q], or 0 for a video without a caption
    above, reached = (best + within, best - within) if within else (best, best)  # whole numbers stay whole numbers
    num_above, num_reached = np.zeros((2, len(scores)), np.int64)
    for rows in row_blocks(scores.shape):
        num_above[rows] = np.count_nonzero(scores[rows] > above[rows, None], axis=1)
        num_reached[rows] = np.count_nonzero(scores[rows] >= reached[rows, None], axis=1)
    num_own = np.bincount(queries[true >= reached[queries]], minlength=len(scores))  # true answers are no rivals
    asked = num_own > 0
    return Rivals(num_above[asked], (num_reached - num_above - num_own)[asked])


def check_ties(ties: str) -> None:
    """Raises: UsageError for an unknown policy."""
    if ties not in TIES:
        raise UsageError(f"ties={ties!r}: unknown; choose one of {', '.join(TIES)}")


def check_similarity(name: str, similarity: ArrayLike) -> np.ndarray:
    """The similarity as a two-dimensional array of finite numbers. Raises: InputError naming what and where."""
    scores = np.asarray(similarity)
    if scores.ndim != 2 or scores.size == 0 or scores.dtype.kind not in "fiu":
        raise InputError(f"{name}: {scores.dtype} {scores.shape}, expected numbers [num_texts, num_videos], not empty")
    for rows in row_blocks(scores.shape):
        finite = np.isfinite(scores[rows])
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            row += rows.start
            raise InputError(
                f"{name}[{row}, {column}] is {scores[row, column]}; check the embeddings of text {row}, video {column}"
            )
    return scores


def row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of rows, each of about `_BLOCK_ENTRIES` entries."""
    step = max(1, _BLOCK_ENTRIES // shape[1])
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def check_owners(text_to_video: ArrayLike | None, shape: tuple[int, ...]) -> np.ndarray:
    """Each text's video, int64 [N], by default its own number. Raises: InputError naming what and where."""
    num_texts, num_videos = shape
    if text_to_video is None:
        if num_texts != num_videos:
            raise InputError(f"similarity: shape {shape} is not square; give text_to_video, each text's video index")
        return np.arange(num_texts, dtype=np.int64)
    owners = np.asarray(text_to_video)
    if owners.shape != (num_texts,) or owners.dtype.kind not in "iu":
        raise InputError(f"text_to_video: {owners.dtype} {owners.shape}, expected integers ({num_texts},)")
    outside = np.flatnonzero((owners < 0) | (owners >= num_videos))
    if outside.size:
        text = outside[0]
        raise InputError(f"text_to_video[{text}] is {owners[text]}; similarity has the videos 0 to {num_videos - 1}")
    return owners.astype(np.int64)
