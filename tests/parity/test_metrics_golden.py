"""Ranks and dual softmax against what the released evaluation printed for the same matrices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from clipvip.errors import InputError
from clipvip.evaluation import dual_softmax, released_metrics, retrieval_metrics, retrieval_ranks

DATA = Path(__file__).parents[1] / "data"
RECORDED = json.loads((DATA / "golden.json").read_text())["metrics"]
TENSORS = load_file(DATA / "io.safetensors")
SIMILARITY, TIED = TENSORS["metrics.sim"], TENSORS["metrics.tie_sim"]
NAMES = {"R@1": "R@1", "R@5": "R@5", "R@10": "R@10", "MdR": "MedR", "MnR": "MeanR"}  # ours: the released one


def released_ranks(similarity):
    """The released counting, 0-based: every place in the sorted row that equals the true score gives a rank."""
    falling = np.sort(-similarity, axis=1)
    return np.nonzero(falling == -np.diag(similarity)[:, None])[1]


def assert_reproduces(ours, recorded):
    for name, released in NAMES.items():
        factor = 100.0 if name.startswith("R@") else 1.0  # we report percent, the released code fractions
        assert ours[name] == pytest.approx(factor * recorded[released], abs=1e-9), name


@pytest.mark.parametrize("ties", ["average", "optimistic", "pessimistic"])
def test_metrics_equal_the_released_ones_without_ties(ties):
    """Would catch ranks that start at 0, swapped directions, fractions for percent."""
    ours = retrieval_metrics(SIMILARITY, ties=ties)
    for direction in ("t2v", "v2t"):
        assert_reproduces(ours[direction], RECORDED["simple"][direction])


def test_dual_softmax_equals_the_released_tensor():
    """Would catch a softmax over videos, another temperature, or weights that are not multiplied back."""
    rescored = dual_softmax(SIMILARITY)
    assert rescored.dtype == np.float32
    np.testing.assert_allclose(rescored, TENSORS["metrics.sim_dsl"], rtol=1e-5, atol=1e-9)


def test_metrics_after_dual_softmax_equal_the_released_ones():
    """Would catch a re-scoring that moves ranks; the released code ranks v2t by the matrix made for t2v."""
    ours = retrieval_metrics(dual_softmax(SIMILARITY))
    for direction in ("t2v", "v2t"):
        assert_reproduces(ours[direction], RECORDED["DSL"][direction])
    proper = retrieval_metrics(dual_softmax(SIMILARITY), similarity_v2t=dual_softmax(SIMILARITY, axis=1))
    assert proper["t2v"] == ours["t2v"]
    assert proper["v2t"] != ours["v2t"]


@pytest.mark.parametrize("direction", ["t2v", "v2t"])
def test_the_released_protocol_gives_the_released_figures(direction):
    """Would catch a protocol that is released in name only: raw, with its dual softmax, and with ties."""
    found = released_metrics(SIMILARITY)
    assert_reproduces(found["plain"][direction], RECORDED["simple"][direction])
    assert_reproduces(found["dsl"][direction], RECORDED["DSL"][direction])
    assert found["plain"][direction]["num_places"] == 50
    tied = released_metrics(TIED)["plain"]
    assert_reproduces(tied[direction], RECORDED["tie_example_official"][direction])
    assert tied["t2v"]["num_places"] == RECORDED["tie_example_official"]["t2v_n_ranks_counted"]
    assert released_metrics(TIED)["plain"][direction] != retrieval_metrics(TIED)[direction]
    with pytest.raises(InputError, match="one text a video only"):
        released_metrics(SIMILARITY[:, :40])


@pytest.mark.parametrize("direction", ["t2v", "v2t"])
def test_ties_count_once_where_the_released_code_counts_each(direction):
    """Would catch the released trap: 8 queries with ties gave 16 ranks, so the denominator grew with the ties."""
    scores = TIED if direction == "t2v" else TIED.T
    released = released_ranks(scores)
    recorded = RECORDED["tie_example_official"]
    if direction == "t2v":
        assert len(released) == recorded["t2v_n_ranks_counted"] == 16
    assert np.mean(released == 0) == pytest.approx(recorded[direction]["R@1"])
    assert np.mean(released) + 1 == pytest.approx(recorded[direction]["MeanR"])

    first = [1 + sum(other > row[i] for other in row) for i, row in enumerate(scores)]
    last = [sum(other >= row[i] for other in row) for i, row in enumerate(scores)]
    for ties, expected in {"optimistic": first, "pessimistic": last, "average": np.add(first, last) / 2}.items():
        assert retrieval_ranks(TIED, ties=ties)[direction].tolist() == list(expected)
    # The released ranks are, query by query, all places from the optimistic to the pessimistic one.
    assert sorted(released + 1) == sorted(place for a, b in zip(first, last, strict=True) for place in range(a, b + 1))
