"""Frame sampling against the tables recorded from the released code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipvip.video.sampling import jittered_from, jittered_indices, middle_index, uniform_indices

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "golden.json").read_text())["frame_index"]
counts = st.integers(1, 3000)


@pytest.mark.parametrize(("table", "n"), [("eval", GOLDEN["n"]), ("eval_n32", 32)])
def test_uniform_indices_equal_the_released_ones(table, n):
    """Would catch rounding instead of flooring, a missing last frame, bin centres."""
    for total, expected in GOLDEN[table].items():
        assert uniform_indices(int(total), n).tolist() == expected


def test_middle_index_equals_the_released_one():
    """Would catch (total - 1) // 2, which describes another frame for even counts."""
    assert {total: middle_index(int(total)) for total in GOLDEN["mid_frame"]} == GOLDEN["mid_frame"]


@pytest.mark.parametrize("row", GOLDEN["train_jitter"], ids=lambda row: f"total{row['total']}")
def test_jitter_equals_the_released_one_for_the_same_start_and_end(row):
    """Would catch a jitter of every frame on its own, or an end that is never reached."""
    assert jittered_from(row["start"], row["end"], GOLDEN["n"]).tolist() == row["idx"]


@pytest.mark.parametrize("total", [5, 12, 30, 81])
def test_jitter_draws_the_whole_released_range_of_starts_and_ends(total):
    """Would catch an exclusive upper bound: the released ranges are [0, interval] and [total-1-interval, total-1]."""
    rng = np.random.default_rng(0)
    drawn = np.stack([jittered_indices(total, 12, rng) for _ in range(1000)])
    interval = int(total / 11)
    assert set(drawn[:, 0].tolist()) == set(range(interval + 1))
    assert set(drawn[:, -1].tolist()) == set(range(total - 1 - interval, total))


@given(total=counts, n=st.integers(1, 64), seed=st.integers(0, 2**32 - 1))
def test_indices_are_frames_of_the_clip_in_order_of_time(total, n, seed):
    """Would catch clips played backwards (n of 2 or 3 in the released formula), n = 1 dividing by zero, overruns."""
    for indices in (uniform_indices(total, n), jittered_indices(total, n, np.random.default_rng(seed))):
        assert indices.dtype == np.int64
        assert indices.shape == (n,)
        assert 0 <= indices[0] <= indices[-1] < total
        assert (np.diff(indices) >= 0).all()


def test_jitter_is_a_function_of_the_generator():
    """Would catch a draw from NumPy's global state, which differs between loader workers and resumed runs."""
    first, again = (jittered_indices(300, 12, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("call", [lambda t, n: uniform_indices(t, n), lambda t, n: jittered_indices(t, n, np.random)])
@pytest.mark.parametrize(("total", "n"), [(0, 12), (-1, 12), (12, 0), (12, -3)])
def test_counts_that_are_not_positive_are_refused(call, total, n):
    """Would catch an empty video that yields index -1, that is its last frame."""
    with pytest.raises(ValueError, match=f"total={total} and n={n}"):
        call(total, n)


def test_impossible_starts_and_ends_are_refused():
    """Would catch time running backwards through the pure half."""
    with pytest.raises(ValueError, match="start <= end"):
        jittered_from(3, 2, 4)
    with pytest.raises(ValueError, match="total=0"):
        middle_index(0)
