"""How sure a figure is: percentile bootstrap over queries, the gallery and the model as they are.

A figure of 500 queries is a sample: another 500 of the same kind would give another one. These intervals say how far
apart such figures lie. They know nothing of other training seeds, other galleries or other data.

Where several captions belong to one video, give `groups`: whole videos are drawn then, with all their captions.
Captions of one video share its luck; drawing them one by one would count that luck as many times, and the interval
would be too narrow.

Shapes: Q queries, G groups, R resamples (or as many of them as are worked on at once).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from clipvip.errors import InputError, UsageError

Metric = str | Callable[[np.ndarray], float]
"""A name of `METRICS`, or any function of the drawn queries' ranks, [Q'] (Q' varies if groups are of several sizes)."""

RESAMPLES = 2000
_BLOCK_ENTRIES = 1 << 21


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and where the middle `level` (a share) of its resamples lies."""

    value: float
    low: float
    high: float


def bootstrap_intervals(
    ranks: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    num_resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """The intervals of all that `summarize_ranks` reports, from the same resamples.

    ranks: [Q]; groups: a label of each query, [Q]: queries of one label are drawn together (default: one by one).
    Where no query differs from another (R@1 = 0 or 100), the interval has no width: no resample can know better.
    Raises: InputError for NaN, no ranks, or other shapes; UsageError for impossible settings.
    """
    values = _check_values("ranks", ranks)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
    for counts in _resampled(len(values), groups, num_resamples, seed):
        for name, metric in METRICS.items():
            drawn[name].append(metric(values, counts))
    once = np.ones((1, len(values)))
    return {name: _interval(METRICS[name](values, once)[0], np.concatenate(drawn[name]), level) for name in METRICS}


def paired_difference(
    ranks_a: ArrayLike,
    ranks_b: ArrayLike,
    metric: Metric = "R@1",
    groups: ArrayLike | None = None,
    *,
    num_resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """metric(a) - metric(b) of two models on the same queries; both are resampled alike.

    What makes a query hard for both then cancels, so the interval is much narrower than those of a and b suggest.
    ranks_a, ranks_b: [Q], query by query the same; any other number a query has (a score, right or wrong) will do with
    a function as metric. groups and errors as `bootstrap_intervals`.
    """
    a, b = _check_values("ranks_a", ranks_a), _check_values("ranks_b", ranks_b)
    if a.shape != b.shape:
        raise InputError(
            f"ranks_b: {len(b)} queries, but ranks_a has {len(a)}: a paired difference needs the same ones"
        )
    measure = _measure(metric)
    drawn = [measure(a, counts) - measure(b, counts) for counts in _resampled(len(a), groups, num_resamples, seed)]
    once = np.ones((1, len(a)))
    return _interval((measure(a, once) - measure(b, once))[0], np.concatenate(drawn), level)


def _resampled(num_queries: int, groups: ArrayLike | None, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each query is drawn, float64 [R, Q], in blocks of resamples."""
    if num_resamples < 1:
        raise UsageError(f"num_resamples={num_resamples}: expected at least 1")
    group_of = np.arange(num_queries)
    if groups is not None:
        labels = np.asarray(groups)
        if labels.shape != (num_queries,):
            raise InputError(f"groups: shape {labels.shape}, expected ({num_queries},): a label of each query")
        group_of = np.unique(labels, return_inverse=True)[1]
    num_groups = int(group_of.max()) + 1
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK_ENTRIES // num_queries)
    for start in range(0, num_resamples, step):
        num = min(step, num_resamples - start)
        drawn = rng.integers(num_groups, size=(num, num_groups)) + num_groups * np.arange(num)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=num * num_groups).reshape(num, num_groups)
        yield counts[:, group_of].astype(np.float64)


def _mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return counts @ values.astype(np.float64) / counts.sum(axis=1)


def _recall(*ks: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda ranks, counts: _mean(100.0 * np.mean([ranks <= k for k in ks], axis=0), counts)


def _median(ranks: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Of the ranks with each repeated as often as it was drawn, [R]."""
    order = np.argsort(ranks)
    reached = np.cumsum(counts[:, order], axis=1)
    total = reached[:, -1:]
    middle = [np.argmax(reached >= place, axis=1) for place in ((total + 1) // 2, total // 2 + 1)]
    return (ranks[order[middle[0]]] + ranks[order[middle[1]]]) / 2.0


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "R@1": _recall(1),
    "R@5": _recall(5),
    "R@10": _recall(10),
    "MeanR@": _recall(1, 5, 10),
    "MdR": _median,
    "MnR": _mean,
}
"""Each takes the ranks, [Q], and how often each is drawn, [R, Q], and gives [R]."""


def _measure(metric: Metric) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    if isinstance(metric, str):
        if metric not in METRICS:
            raise UsageError(f"metric={metric!r}: unknown; choose one of {', '.join(METRICS)}, or give a function")
        return METRICS[metric]
    return lambda ranks, counts: np.array([metric(np.repeat(ranks, row)) for row in counts.astype(np.int64)])


def _interval(value: float, drawn: np.ndarray, level: float) -> Interval:
    if not 0.0 < level < 1.0:
        raise UsageError(f"level={level}: expected a share between 0 and 1, as 0.95")
    low, high = np.quantile(drawn, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(value), float(low), float(high))


def _check_values(name: str, ranks: ArrayLike) -> np.ndarray:
    values = np.asarray(ranks, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise InputError(f"{name}: shape {values.shape}, expected (num_queries,), not empty")
    if not np.isfinite(values).all():
        query = int(np.argmin(np.isfinite(values)))
        raise InputError(f"{name}[{query}] is {values[query]}: expected a number")
    return values
