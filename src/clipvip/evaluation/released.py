"""What the released code would print for a similarity: for comparison with published figures, not for use.

It differs from ours twice. A query whose true answer is tied counts once for every tied place, so that ties add ranks
(and, among the best, hits) and the denominator grows with them. And dual softmax is taken over texts for both
directions. What else it does, that no similarity shows, is not imitated: on several GPUs it drops some test samples and
counts others twice, and a video that cannot be decoded is replaced by another one.

Shapes: N texts and as many videos, text i of video i; P places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from clipvip.errors import InputError
from clipvip.evaluation.metrics import DIRECTIONS, Direction, check_similarity, count_rivals, summarize_ranks
from clipvip.evaluation.rescoring import dual_softmax


def released_places(similarity: ArrayLike) -> dict[Direction, np.ndarray]:
    """{"t2v", "v2t"}: the places, from 1, that the true answers take: float64 [P], P >= N, of each query all its ties'.

    Raises: InputError for NaN, infinity, or a similarity that is not square.
    Source: CLIP-ViP's released evaluation.
    """
    scores = check_similarity("similarity", similarity)
    if scores.shape[0] != scores.shape[1]:
        raise InputError(f"similarity: shape {scores.shape}; the released protocol knows one text a video only")
    places: dict[Direction, np.ndarray] = {}
    for direction in DIRECTIONS:
        rivals = count_rivals(scores, None, direction)
        first = np.repeat(1.0 + rivals.better, 1 + rivals.equal)
        nth = np.arange(len(first)) - np.repeat(np.cumsum(1 + rivals.equal) - (1 + rivals.equal), 1 + rivals.equal)
        places[direction] = first + nth
    return places


def released_metrics(similarity: ArrayLike) -> dict[str, dict[Direction, dict[str, float]]]:
    """{"plain", "dsl"} of both directions as `summarize_ranks`, and "num_places" among which the percentages count.

    Arguments and errors as `released_places`.
    """
    scores = check_similarity("similarity", similarity)
    found = {}
    for kind in ("plain", "dsl"):
        places = released_places(scores if kind == "plain" else dual_softmax(scores))
        found[kind] = {way: summarize_ranks(taken) | {"num_places": len(taken)} for way, taken in places.items()}
    return found
