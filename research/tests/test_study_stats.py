"""The study's intervals and verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from study import claims, figures, plan, stats
from study.cells import pair_accuracy, recall, summarise
from study.stats import Interval, hierarchical_interval, values_of, verdict


def record(data_seed: int, model_seed: int, ranks: list[float], **fields: Any) -> dict[str, Any]:
    base = {"data_seed": data_seed, "model_seed": model_seed, "ranks": ranks, "nll": [50, 150], "pairs": {"M": "10="}}
    base["ties"] = [int(2 * (rank % 1)) for rank in ranks]
    return base | {"figures": {}, "family": "A", "kind": "test", "row": "x", "level": "base"} | fields


def test_intervals_cover_the_truth_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches intervals that forget a level of the hierarchy: from six cells they would cover far less than 95 %."""
    monkeypatch.setattr(stats, "NUM_RESAMPLES", 400)
    rng = np.random.default_rng(0)
    covered = []
    for number in range(300):
        models = rng.normal(0, 3, (2, 3, 1))
        queries = rng.normal(0, 8, (2, 1, 40)) + rng.normal(0, 8, (2, 3, 40))
        found = hierarchical_interval(5 + models + queries, seed=number)
        covered.append(found.low <= 5 <= found.high)
    assert np.mean(covered) > 0.92


def test_an_interval_is_about_the_mean_and_knows_its_spread() -> None:
    """Catches a bootstrap of other values than those given, and a detectable effect from the wrong spread."""
    values = np.broadcast_to(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[..., None], (2, 3, 10))
    found = hierarchical_interval(values)
    assert found.mean == pytest.approx(3.5)
    assert found.low < 2
    assert found.high > 5
    assert found.spread == pytest.approx(np.std([1, 2, 3, 4, 5, 6], ddof=1))
    assert found.detectable == pytest.approx((2.5706 + 0.9195) * found.spread / 6**0.5, rel=1e-3)
    constant = hierarchical_interval(np.full((2, 3, 10), 7.0))
    assert (constant.low, constant.high) == pytest.approx((7.0, 7.0))
    with pytest.raises(ValueError, match="one seed"):
        hierarchical_interval(np.zeros((1, 1, 5)))


def test_the_effect_to_expect_comes_from_the_spread_between_seeds_of_one_point() -> None:
    """Catches the differences between grid points, or cells of the test split, being taken for noise."""
    cells = [
        record(0, seed, [1], kind=kind, level=level, figures={"R@1": base + step})
        for kind, level, base, wide in (("search", "try 1", 10, 2), ("search", "try 2", 70, 4), ("test", "base", 0, 99))
        for seed, step in enumerate((-wide, wide))
    ]
    spread = (2 * np.mean([2 * 2**2, 2 * 4**2])) ** 0.5
    assert stats.expected_detectable(cells, "R@1", 6) == pytest.approx((2.5706 + 0.9195) * spread / 6**0.5, rel=1e-3)
    assert stats.expected_detectable(cells[::2], "R@1", 6) is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5, 9.0, "reproduced"), (-9.0, -0.5, "reversed"), (-1.0, 1.5, "equivalent"), (0.5, 1.5, "equivalent"),
        (-1.0, 9.0, "unresolved"), (-9.0, 9.0, "unresolved"),
    ],
)  # fmt: skip
def test_verdicts(low: float, high: float, expected: str) -> None:
    """Catches thresholds other than those of the protocol; a small but sure difference is "equivalent"."""
    assert verdict(Interval((low + high) / 2, low, high, 1.0, 6), margin=2.0) == expected


def test_values_are_in_the_order_of_seeds_and_agree_with_the_summary() -> None:
    """Catches pairs of cells of different seeds, and figures that are not the means of their values."""
    ranks = {(d, m): [1, 4, 7.5, 200, d, m + 1] for d in (1, 2) for m in (0, 1, 2)}
    cells = [record(d, m, ranks[d, m]) for d, m in sorted(ranks, reverse=True)]
    for figure in ("R@1", "R@5", "R@10", "MeanR@"):
        values = values_of(cells, figure)
        assert values.shape == (2, 3, 6)
        for (d, m), of in ranks.items():
            expected = summarise(np.array(of), np.array(cells[0]["ties"]), np.zeros(6))[figure]
            assert values[d - 1, m].mean() == pytest.approx(expected, abs=1e-3)
    assert values_of(cells, "InfoNCE")[0, 0].tolist() == [0.5, 1.5]
    assert values_of(cells, "M")[0, 0].tolist() == [100.0, 0.0, 50.0]
    assert pair_accuracy("10=") == 50.0
    with pytest.raises(ValueError, match="missing"):
        values_of(cells[1:], "R@1")


def test_a_recall_of_ties_is_that_of_a_random_order() -> None:
    """Catches frame averaging, which has twins tied, being told to find nothing where it finds one of two."""
    best, tied = np.array([1, 1, 1, 9, 11]), np.array([0, 1, 3, 3, 1])
    assert recall(best + tied / 2, tied, 1).tolist() == [1.0, 0.5, 0.25, 0.0, 0.0]
    assert recall(best + tied / 2, tied, 10).tolist() == [1.0, 1.0, 1.0, 0.5, 0.0]


def test_a_claim_is_weighed_on_paired_cells_of_its_family() -> None:
    """Catches verdicts from half of the cells, from search cells, or from the other family."""
    claim = claims.Claim("table2", "x beats y", "x", "y", "R@1")
    better = [record(d, m, [1] * 40, nll=[0] * 40) for d in (1, 2) for m in range(3)]
    worse = [record(d, m, [1] * 10 + [2] * 30, nll=[100] * 40, row="y") for d in (1, 2) for m in range(3)]
    outcome = claims.weigh(claim, better + worse, "A")
    assert outcome.verdict == "reproduced"
    assert outcome.difference is not None
    assert outcome.difference.mean == pytest.approx(75)
    assert outcome.infonce is not None
    assert outcome.infonce.mean == pytest.approx(1)
    assert claims.weigh(claim, better + worse[1:], "A").verdict == "not yet run"
    assert claims.weigh(claim, [r for r in better + worse if r["data_seed"] == 1], "A").verdict == "not yet run"
    assert claims.weigh(claim, better + worse, "B").verdict == "not yet run"
    assert claims.weigh(claim, [{**r, "kind": "search"} for r in better + worse], "A").verdict == "not yet run"


def test_every_claim_and_figure_is_about_cells_that_the_plan_has() -> None:
    """Catches a claim that no run could ever decide, because its row or level has another name in the plan."""
    for table in plan.TABLES[1:]:
        chosen = {row: settings for (row, _), settings in plan.search_points(table).items()}
        there = {(c.world.family, c.row, c.level) for c in plan.final_cells(table, chosen, 2)}
        there |= {(family, "none", f"step {step}") for family in "AB" for step in plan.SNAPSHOTS}
        for claim in claims.CLAIMS:
            if claim.table == table:
                assert ("A", claim.better, claim.level) in there, claim
                assert ("A", claim.worse, claim.against or claim.level) in there, claim
        for plot in figures.PLOTS:
            if plot.table == table:
                assert all((plot.family, plot.rows[0], level) in there for level in plot.levels.values()), plot
