"""Corrections of a similarity matrix against hubs, the videos that are near to every query. No training involved.

Shapes: N texts, V videos, K bank texts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from clipvip.errors import InputError, UsageError
from clipvip.evaluation.metrics import check_similarity, row_blocks


def dual_softmax(similarity: ArrayLike, temperature: float = 100.0, axis: int = 0) -> np.ndarray:
    """similarity * softmax(temperature * similarity, axis): an answer counts as much as it prefers this query.

    Transductive: it needs all test queries at once, so its figures are reported next to plain ones, never instead.
    similarity: [N, V]; axis: 0 over texts (for t2v), 1 over videos (for v2t; the released code has 0 for both).

    Returns: [N, V], float32 or the similarity's wider dtype.
    Raises: InputError for NaN, infinity or a temperature that is not positive; UsageError for another axis.
    Source: CAMoE (arXiv 2109.04290), dual softmax; CLIP-ViP's released evaluation.
    """
    if axis not in (0, 1):
        raise UsageError(f"axis={axis!r}: choose 0 (over texts, for t2v) or 1 (over videos, for v2t)")
    _check_positive("temperature", temperature)
    return apply_dual_softmax(check_similarity("similarity", similarity), axis, temperature)


def apply_dual_softmax(scores: np.ndarray, axis: int, temperature: float = 100.0) -> np.ndarray:
    """`dual_softmax` of scores that are checked already; the result is finite."""
    scores = _as_float(scores)
    with np.errstate(over="ignore", under="ignore"):  # a difference too large for the dtype is -inf, its weight 0
        weights = scores - scores.max(axis=axis, keepdims=True)
        weights *= temperature
        np.exp(weights, out=weights)
        weights /= weights.sum(axis=axis, keepdims=True, dtype=np.float64)
        weights *= scores
    return weights


def querybank_norm(similarity: ArrayLike, bank_similarity: ArrayLike, beta: float = 20.0, k: int = 1) -> np.ndarray:
    """QB-Norm's dynamic inverted softmax: t2v scores relative to what a bank of training texts gives each video.

    A video is active if it is among the best k of some bank text. A query whose best video is active gets
    exp(beta * s_qj) / sum over the bank of exp(beta * s_bj); other rows stay as they are. Of equal scores, each is
    among the best. Scores can then be compared within a row only, and so serve no v2t ranking. Where even the
    quotient exceeds the dtype, its row is multiplied by a constant.

    similarity: [N, V]; bank_similarity: [K, V], the same videos.
    Returns: [N, V], float32 or the similarity's wider dtype.
    Raises: InputError for NaN, infinity, other shapes, beta not positive, or k out of 1 to V.
    Source: QB-Norm (arXiv 2112.12777), dynamic inverted softmax.
    """
    scores = check_similarity("similarity", similarity)
    num_videos = scores.shape[1]
    bank = check_bank(bank_similarity, num_videos)
    if not 1 <= k <= num_videos:
        raise InputError(f"k={k}: expected 1 to {num_videos}, the number of videos")
    _check_positive("beta", beta)
    return apply_querybank_norm(scores, bank, beta, k)


def apply_querybank_norm(scores: np.ndarray, bank: np.ndarray, beta: float = 20.0, k: int = 1) -> np.ndarray:
    """`querybank_norm` of scores that are checked already; the result is finite."""
    scores = _as_float(scores)
    active, log_normalizer = _read_bank(bank, beta, k)
    largest = np.log(np.finfo(scores.dtype).max) - 1.0
    normalized = scores.copy()
    for rows in row_blocks(scores.shape):
        block = scores[rows]
        changed = ((block == block.max(axis=1, keepdims=True)) & active).any(axis=1)
        exponents = beta * block[changed].astype(np.float64) - log_normalizer
        exponents -= np.maximum(exponents.max(axis=1, keepdims=True) - largest, 0.0)
        normalized[rows][changed] = np.exp(exponents)
    return normalized


def check_bank(bank_similarity: ArrayLike, num_videos: int) -> np.ndarray:
    """The scores of a bank, [K, V]. Raises: InputError for NaN, infinity, or another number of videos."""
    bank = check_similarity("bank_similarity", bank_similarity)
    if bank.shape[1] != num_videos:
        raise InputError(
            f"bank_similarity: shape {bank.shape}, expected (num_bank_texts, {num_videos}): the same videos"
        )
    return bank


def inverted_softmax(scores: np.ndarray, bank_similarity: np.ndarray, beta: float = 20.0) -> np.ndarray:
    """What `querybank_norm` makes of a row that it changes: exp(beta * s_qj) / sum over the bank of exp(beta * s_bj).

    scores: [n], of some of the videos; bank_similarity: [K, n], the same videos. Returns: float32 [n].
    """
    _, log_normalizer = _read_bank(bank_similarity, beta, 1)
    return np.exp(beta * scores - log_normalizer).astype(np.float32)


def _read_bank(bank: np.ndarray, beta: float, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Active videos, bool [V], and log of the sum over the bank of exp(beta * s_bj), float64 [V]."""
    num_videos = bank.shape[1]
    peak = bank.max(axis=0).astype(np.float64)
    active, total = np.zeros(num_videos, dtype=bool), np.zeros(num_videos)
    for rows in row_blocks(bank.shape):
        kth_best = np.partition(bank[rows], num_videos - k, axis=1)[:, num_videos - k]
        active |= (bank[rows] >= kth_best[:, None]).any(axis=0)
        total += np.exp(beta * (bank[rows] - peak)).sum(axis=0)
    return active, beta * peak + np.log(total)


def _as_float(scores: np.ndarray) -> np.ndarray:
    return scores.astype(np.result_type(scores, np.float32), copy=False)


def _check_positive(name: str, value: float) -> None:
    if not (value > 0 and np.isfinite(value)):
        raise InputError(f"{name}={value}: expected a positive number")
