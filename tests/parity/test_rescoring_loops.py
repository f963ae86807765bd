"""Dual softmax and QB-Norm against loops over single scores, written from the papers' formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clipvip.evaluation import dual_softmax, metrics, querybank_norm


def cosines(num_texts, num_videos, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (num_texts, num_videos)).astype(np.float32)


def loop_dual_softmax(similarity, temperature, axis):
    similarity = similarity.astype(np.float64)
    rescored = np.zeros(similarity.shape)
    for i, j in np.ndindex(*similarity.shape):
        rivals = similarity[:, j] if axis == 0 else similarity[i]
        weight = 1 / sum(math.exp(temperature * (rival - similarity[i, j])) for rival in rivals)
        rescored[i, j] = similarity[i, j] * weight
    return rescored


def loop_querybank_norm(similarity, bank, beta, k):
    active = {j for row in bank for j in sorted(range(len(row)), key=lambda j: -row[j])[:k]}
    rescored, bank = similarity.astype(np.float64), bank.astype(np.float64)
    for i, row in enumerate(rescored.copy()):
        if max(range(len(row)), key=lambda j: row[j]) in active:
            for j, score in enumerate(row):
                rescored[i, j] = math.exp(beta * score) / sum(math.exp(beta * other) for other in bank[:, j])
    return rescored


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("temperature", [1.0, 100.0])
def test_dual_softmax_equals_loops(axis, temperature):
    """Would catch the other axis, a temperature that divides, and weights that replace the scores."""
    similarity = cosines(7, 5)
    expected = loop_dual_softmax(similarity, temperature, axis)
    np.testing.assert_allclose(dual_softmax(similarity, temperature, axis), expected, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(dual_softmax(similarity.astype(float), temperature, axis), expected, rtol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("block_entries", [1 << 22, 9])
def test_querybank_norm_equals_loops(k, block_entries, monkeypatch):
    """Would catch a sum over the queries instead of the bank, top-k of the wrong axis, a bank cut into blocks."""
    monkeypatch.setattr(metrics, "_BLOCK_ENTRIES", block_entries)
    similarity, bank = cosines(30, 9), cosines(5, 9, seed=1)
    bank[:, 6:] -= 2.0  # never among the best of the bank
    expected = loop_querybank_norm(similarity, bank, 20.0, k)
    unchanged = (expected == similarity).all(axis=1)
    assert 0 < unchanged.sum() < 30
    before = similarity.copy()
    rescored = querybank_norm(similarity, bank, k=k)
    np.testing.assert_allclose(rescored, expected, rtol=1e-5)
    np.testing.assert_array_equal(rescored[unchanged], before[unchanged])
    np.testing.assert_array_equal(similarity, before)


@pytest.mark.parametrize("seed", range(20))
def test_querybank_norm_ranks_as_loops_do(seed):
    """Would catch rows that are re-scored for one query and not for another: banks of all sizes, hubs and none."""
    rng = np.random.default_rng(seed)
    num_texts, num_videos, num_bank = rng.integers(1, 12, 3)
    similarity, bank = cosines(num_texts, num_videos, seed), cosines(num_bank, num_videos, seed + 100)
    k = int(rng.integers(1, num_videos + 1))
    expected = loop_querybank_norm(similarity, bank, 20.0, k)
    found = querybank_norm(similarity, bank, k=k)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()
