"""Bootstrap intervals: what is drawn, what is measured on it, and whether they hold what they promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from clipvip.errors import InputError, UsageError
from clipvip.evaluation import bootstrap_intervals, intervals, paired_difference, summarize_ranks

RNG = np.random.default_rng(0)
RANKS = RNG.geometric(0.1, 200) + 0.5 * RNG.integers(0, 2, 200)
GROUPS = RNG.choice(["a", "b", "c", "d", "e", "f", "g"], 200)


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["queries", "groups of several sizes"])
@pytest.mark.parametrize("name", intervals.METRICS)
def test_every_figure_is_that_of_the_drawn_ranks(name, groups):
    """Would catch weights in place of repeats: a median of the wrong middle, a mean over the wrong number."""
    perfect = np.ones(200)
    fast = paired_difference(RANKS, perfect, name, groups, num_resamples=300)
    slow = paired_difference(RANKS, perfect, lambda drawn: summarize_ranks(drawn)[name], groups, num_resamples=300)
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high))
    whole = bootstrap_intervals(RANKS, groups, num_resamples=300)[name]
    assert whole.value == pytest.approx(summarize_ranks(RANKS)[name])
    assert whole.low <= whole.value <= whole.high


def test_all_resamples_are_equally_likely():
    """Would catch queries drawn without replacement, or with a wrong chance: three queries have 27 resamples."""
    ranks = np.array([1.0, 2.0, 7.0])
    means = []
    paired_difference(ranks, ranks, lambda drawn: means.append(drawn.sum()) or 0.0, num_resamples=27_000)
    drawn = means[0 : 2 * 27_000 : 2]  # of a; b has the same
    every = [sum(of) for of in itertools.product(ranks, repeat=3)]
    for total in set(every):
        assert drawn.count(total) == pytest.approx(1000 * every.count(total), rel=0.15)


def test_groups_are_drawn_as_a_whole():
    """Would catch captions drawn one by one: of three videos with 1, 2 and 4 captions every caption comes along."""
    groups = np.array(["v", "w", "w", "x", "x", "x", "x"])
    ranks = np.arange(1.0, 8.0)
    seen = []
    paired_difference(ranks, ranks, lambda drawn: seen.append(drawn) or 0.0, groups, num_resamples=50)
    sizes = set()
    for drawn in seen:
        times = [int((drawn == rank).sum()) for rank in ranks]
        assert times[1] == times[2]
        assert len(set(times[3:])) == 1
        assert times[0] + times[1] + times[3] == 3
        sizes.add(len(drawn))
    assert len(sizes) > 2


def test_intervals_cover_as_often_as_they_say_and_only_with_groups():
    """Would catch an interval of another level, and the narrow one that takes captions of one video for independent."""
    rng = np.random.default_rng(1)
    covered = {"groups": 0, "queries": 0}
    groups = np.repeat(np.arange(40), 5)
    for _ in range(200):
        easy = rng.beta(0.5, 0.5, 40)  # the chance of a video's captions; 50 % on average
        ranks = np.where(rng.random(200) < easy[groups], 1.0, 9.0)
        for name, labels in (("groups", groups), ("queries", None)):
            found = paired_difference(ranks, np.full(200, 9.0), "R@1", labels, num_resamples=300)  # to R@1 = 0
            covered[name] += found.low <= 50.0 <= found.high
    assert 0.90 <= covered["groups"] / 200 <= 0.98
    assert covered["queries"] / 200 < 0.80


def test_a_paired_difference_is_first_minus_second_and_sharper_than_two_intervals():
    """Would catch another sign, and resamples of their own for each model."""
    rng = np.random.default_rng(2)
    hard = rng.geometric(0.05, 400).astype(float)
    worse = hard + rng.integers(0, 3, 400)
    found = paired_difference(worse, hard, "MnR")
    assert found.value == pytest.approx(worse.mean() - hard.mean())
    assert 0 < found.low < found.value < found.high
    alone = bootstrap_intervals(hard)["MnR"]
    assert found.high - found.low < 0.2 * (alone.high - alone.low)
    same = paired_difference(hard, hard, "R@5")
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_any_number_a_query_has_can_be_compared():
    """Would catch functions that get ranks only: here right or wrong answers, and their mean."""
    right = np.array([1.0, 0.0, 1.0, 1.0])
    assert paired_difference(right, 0 * right, lambda drawn: float(drawn.mean())).value == 0.75


def test_the_same_seed_gives_the_same_interval_whatever_the_blocks(monkeypatch):
    """Would catch an interval that another machine's memory decides, and a seed that is not used."""
    whole = bootstrap_intervals(RANKS, num_resamples=100)
    monkeypatch.setattr(intervals, "_BLOCK_ENTRIES", 700)
    for name, again in bootstrap_intervals(RANKS, num_resamples=100).items():
        assert (again.low, again.high) == pytest.approx((whole[name].low, whole[name].high))
    assert bootstrap_intervals(RANKS, num_resamples=100, seed=1) != whole


def test_a_level_is_a_share_of_the_resamples():
    """Would catch a level taken for one tail."""
    narrow, wide = (bootstrap_intervals(RANKS, level=level)["MnR"] for level in (0.5, 0.95))
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bootstrap_intervals([]), InputError, r"ranks: shape \(0,\), expected .* not empty"),
        (lambda: bootstrap_intervals([1.0, np.nan]), InputError, r"ranks\[1\] is nan"),
        (lambda: bootstrap_intervals([1.0, 2.0], ["a"]), InputError, r"groups: shape \(1,\), expected \(2,\)"),
        (lambda: bootstrap_intervals([1.0], level=95), UsageError, "level=95: expected a share"),
        (lambda: bootstrap_intervals([1.0], num_resamples=0), UsageError, "num_resamples=0"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), InputError, "ranks_b: 2 queries, but ranks_a has 1"),
        (lambda: paired_difference([1.0], [1.0], "R@2"), UsageError, "metric='R@2': unknown; choose one of R@1"),
    ],
)
def test_what_does_not_fit_is_named(call, error, message):
    """Would catch NaN that sorts as the worst rank, and models compared on other queries."""
    with pytest.raises(error, match=message):
        call()
