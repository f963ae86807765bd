"""Moments: overlap and ranks against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from clipvip.errors import InputError
from moments.overlap import NOT_FOUND, Moment, best_iou, moment_rank, temporal_iou


def test_overlap_over_union_of_spans() -> None:
    """Catches an overlap over the wrong length (of one span, of the hull), and one of spans that only touch."""
    a = [(0, 10), (5, 5)]
    b = [(0, 10), (5, 15), (2, 4), (10, 12), (20, 30), (4, 6)]
    by_hand = [[1.0, 5 / 15, 2 / 10, 0.0, 0.0, 2 / 10], [0.0] * 6]
    np.testing.assert_allclose(temporal_iou(a, b), by_hand, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(temporal_iou(a, b), temporal_iou(b, a).T)
    assert temporal_iou([], b).shape == (0, 6)


@pytest.mark.parametrize(
    ("spans", "told"),
    [([(3, 2)], r"spans_a\[0\] is \(3.0, 2.0\)"), ([(0, float("nan"))], "nan"), ([(1, 2, 3)], r"shape \(1, 3\)")],
)
def test_impossible_spans_are_refused(spans: list[tuple[float, ...]], told: str) -> None:
    """Catches a swapped start and end that would count as a miss, silently."""
    with pytest.raises(InputError, match=told):
        temporal_iou(spans, [(0, 1)])


def test_rank_of_the_first_hit_that_fits() -> None:
    """Catches a right time in a wrong video, a limit that is not reached exactly, ranks from 0 or of the last hit."""
    hits = [Moment("b", 0, 10), Moment("a", 0, 4), Moment("a", 0, 5), Moment("a", 0, 10)]
    truth = Moment("a", 0, 10)
    assert [moment_rank(hits, truth, iou) for iou in (0.3, 0.4, 0.5, 0.51, 1.0)] == [2, 2, 3, 4, 4]
    assert moment_rank(hits[:3], truth, 0.51) == NOT_FOUND
    assert moment_rank([], truth, 0.3) == moment_rank(hits, Moment("c", 0, 10), 0.3) == NOT_FOUND


def test_the_best_that_windows_could_do() -> None:
    """Catches a limit over moments instead of over windows."""
    windows = [(0, 4), (2, 6), (4, 8)]
    np.testing.assert_allclose(best_iou(windows, [(2, 6), (3, 5), (6, 20)]), [1.0, 0.5, 2 / 16])
    assert best_iou([], [(2, 6)]).tolist() == [0.0]
