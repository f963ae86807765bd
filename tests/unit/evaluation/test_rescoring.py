"""What re-scoring must not depend on, and the edges of float32; the values: tests/parity/test_rescoring_loops.py."""

from __future__ import annotations

import numpy as np
import pytest

from clipvip.errors import InputError, UsageError
from clipvip.evaluation import dual_softmax, querybank_norm

LARGEST = float(np.finfo(np.float32).max)


def cosines(num_texts, num_videos, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (num_texts, num_videos)).astype(np.float32)


def test_dual_softmax_of_videos_is_that_of_texts_transposed():
    """Would catch an axis that is used for the maximum but not for the sum."""
    similarity = cosines(7, 5)
    np.testing.assert_array_equal(dual_softmax(similarity, axis=1), dual_softmax(similarity.T.copy(), axis=0).T)


def test_querybank_norm_takes_a_hub_off_the_first_place():
    """Would catch a normaliser applied upside down: the hub, near to every bank text, has to lose."""
    bank = np.array([[0.9, 0.1, 0.1], [0.9, 0.2, 0.1], [0.8, 0.1, 0.3]])
    similarity = np.array([[0.60, 0.55, 0.1], [0.2, 0.1, 0.5]])
    rescored = querybank_norm(similarity, bank)
    assert rescored[0].argmax() == 1
    np.testing.assert_array_equal(rescored[1], similarity[1])  # video 2 is no hub: its query stays as it is


@pytest.mark.parametrize("axis", [0, 1])
def test_rescoring_is_blind_to_the_order_of_videos(axis):
    """Would catch equal scores decided by their place, which a sort does in the activation set."""
    similarity, bank = cosines(8, 6).round(1), cosines(5, 6, seed=1).round(1)
    order = np.array([3, 5, 0, 2, 1, 4])
    np.testing.assert_allclose(
        dual_softmax(similarity[:, order], axis=axis), dual_softmax(similarity, axis=axis)[:, order]
    )
    np.testing.assert_allclose(
        querybank_norm(similarity[:, order], bank[:, order]), querybank_norm(similarity, bank)[:, order]
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1.0, 1e3, LARGEST])
def test_no_float32_input_overflows(scale):
    """Would catch exp(100 * score) without its maximum taken off, for logits in place of cosines."""
    similarity, bank = np.float32(scale) * cosines(6, 5), np.float32(scale) * cosines(4, 5, seed=1)
    for rescored in (dual_softmax(similarity), dual_softmax(similarity, axis=1)):
        assert rescored.dtype == np.float32
        assert np.isfinite(rescored).all()
    for rescored in (querybank_norm(similarity, bank, k=5), querybank_norm(similarity, -np.abs(bank), k=5)):
        assert rescored.dtype == np.float32
        assert np.isfinite(rescored).all()
        assert (rescored.max(axis=1) > 0).all()  # the best video is still told from the others


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: dual_softmax(s, axis=2), UsageError, "axis=2: choose 0"),
        (lambda s: dual_softmax(s, temperature=0.0), InputError, "temperature=0.0: expected a positive number"),
        (lambda s: dual_softmax(s * np.nan), InputError, r"similarity\[0, 0\] is nan"),
        (
            lambda s: querybank_norm(s, s[:, :3]),
            InputError,
            r"bank_similarity: shape \(4, 3\), expected \(num_bank_texts, 5\)",
        ),
        (lambda s: querybank_norm(s, s[:0]), InputError, "bank_similarity: .* not empty"),
        (lambda s: querybank_norm(s, s * np.inf), InputError, "bank_similarity.* is "),
        (lambda s: querybank_norm(s, s, k=6), InputError, "k=6: expected 1 to 5"),
        (lambda s: querybank_norm(s, s, beta=-1.0), InputError, "beta=-1.0: expected a positive number"),
    ],
)
def test_inputs_that_do_not_fit_are_named(call, error, message):
    """Would catch NaN that spreads through a column, and a bank scored on another gallery."""
    with pytest.raises(error, match=message):
        call(cosines(4, 5))
