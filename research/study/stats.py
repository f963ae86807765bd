"""Intervals and verdicts: what differences between rows say, given how few seeds there are.

Shapes: D data seeds, M model seeds of each, Q queries (or caption pairs) of a data seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from study.cells import recall

NUM_RESAMPLES = 4000
POWER = 0.8


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval. spread: standard deviation over seeds. num_seeds: D * M."""

    mean: float
    low: float
    high: float
    spread: float
    num_seeds: int

    @property
    def detectable(self) -> float:
        """The least true value that such a study finds to differ from 0 with a probability of 80 %, at 5 %."""
        return detectable(self.spread, self.num_seeds)

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def detectable(spread: float, num_seeds: int) -> float:
    """The least true mean of paired differences that differs from 0 at 5 % with a probability of 80 %, if `spread` is
    the differences' standard deviation over seeds.
    """
    from scipy import stats  # type: ignore[import-untyped]

    quantiles = stats.t.ppf([0.975, POWER], num_seeds - 1)
    return float(quantiles.sum() * spread / np.sqrt(num_seeds))


def expected_detectable(records: Sequence[Mapping[str, Any]], figure: str, num_seeds: int) -> float | None:
    """What cells of the validation split let one expect of `detectable`, before any test cell is there.

    The spread of two rows' difference is taken to be sqrt(2) times that of one row between model seeds, pooled over
    rows. None if no point has two seeds.
    """
    points: dict[tuple[str, str], list[float]] = {}
    for record in records:
        if record["kind"] in ("search", "spread"):
            points.setdefault((record["row"], record["level"]), []).append(record["figures"][figure])
    spreads = [np.var(of, ddof=1) for of in points.values() if len(of) > 1]
    return detectable(float(np.sqrt(2 * np.mean(spreads))), num_seeds) if spreads else None


def hierarchical_interval(values: np.ndarray, seed: int = 0) -> Interval:
    """The mean of values [D, M, Q] with a bootstrap interval over data seeds, model seeds within them, and queries.

    Queries are those of a data seed, whatever the model seed. Percentiles of resampled means from so few seeds lie too
    near to the mean: their distances are widened by t(0.975, n - 1) / 1.96 * sqrt(n / (n - 1)), n = D * M.
    Raises: ValueError for fewer than two seeds in all.
    """
    from scipy import stats

    num_data, num_models, num_queries = values.shape
    n = num_data * num_models
    if n < 2:
        raise ValueError("one seed has no interval: give at least two")
    means = np.zeros(NUM_RESAMPLES)
    for data, models, weights in _draws(NUM_RESAMPLES, num_data, num_models, num_queries, seed):
        of_models = np.empty((NUM_RESAMPLES, num_models))
        for which in range(num_data):
            rows = data == which
            of_models[rows] = weights[rows] @ values[which].T
        means += np.take_along_axis(of_models, models, axis=1).mean(axis=1) / num_data
    center = float(values.mean())
    widen = stats.t.ppf(0.975, n - 1) / stats.norm.ppf(0.975) * np.sqrt(n / (n - 1))
    low, high = np.percentile(means, [2.5, 97.5])
    spread = float(values.mean(axis=2).std(ddof=1))
    return Interval(center, center - widen * (center - low), center + widen * (high - center), spread, n)


@lru_cache(maxsize=4)
def _draws(
    num_resamples: int, num_data: int, num_models: int, num_queries: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each of the D places of a resample: its data seed [R], its model seeds [R, M], each query's weight [R, Q].

    A query's weight is how often it was drawn. Drawn once: all figures are resampled alike.
    """
    rng = np.random.default_rng(seed)
    even = np.full(num_queries, 1 / num_queries)
    return [
        (
            rng.integers(num_data, size=num_resamples),
            rng.integers(num_models, size=(num_resamples, num_models)),
            rng.multinomial(num_queries, even, size=num_resamples) / num_queries,
        )
        for _ in range(num_data)
    ]


def verdict(difference: Interval, margin: float) -> str:
    """What a difference says of a claim that it is positive. margin: what is too small to matter.

    "equivalent": the interval is within the margin; "reproduced" and "reversed": it excludes 0; else "unresolved".
    """
    if -margin < difference.low and difference.high < margin:
        return "equivalent"
    if difference.low > 0:
        return "reproduced"
    return "reversed" if difference.high < 0 else "unresolved"


def crossed(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether cells are complete: several data seeds, and each with every model seed that any of them has."""
    seeds = {(record["data_seed"], record["model_seed"]) for record in records}
    data, models = {data_seed for data_seed, _ in seeds}, {model_seed for _, model_seed in seeds}
    return len(data) > 1 and len(seeds) == len(data) * len(models)


def values_of(records: Sequence[Mapping[str, Any]], figure: str) -> np.ndarray:
    """A figure, query by query, of the cells of one row and level: float64 [D, M, Q], in the order of seeds.

    figure: "R@1", "R@5", "R@10", "MeanR@" (percent), "InfoNCE" (nats), or an attribute's pairs (percent).
    Raises: ValueError if the cells are not a full cross of seeds.
    """
    by_seed = {(record["data_seed"], record["model_seed"]): record for record in records}
    if not crossed(records):
        raise ValueError(f"cells of the seeds {sorted(by_seed)}: some are missing")
    data = sorted({data_seed for data_seed, _ in by_seed})
    models = sorted({model_seed for _, model_seed in by_seed})
    return np.array([[_queries(by_seed[d, m], figure) for m in models] for d in data])


def _queries(record: Mapping[str, Any], figure: str) -> np.ndarray:
    if figure == "InfoNCE":
        return np.array(record["nll"]) / 100
    if figure in record.get("pairs", {}):
        score = {"1": 100.0, "0": 0.0, "=": 50.0}
        return np.array([score[outcome] for outcome in record["pairs"][figure]])
    if "ranks" not in record:
        return np.array([100 * record["figures"][figure]])  # of NMI there are no queries
    ranks, ties = np.array(record["ranks"]), np.array(record["ties"])
    limits = (1, 5, 10) if figure == "MeanR@" else (int(figure.removeprefix("R@")),)
    return np.mean([100.0 * recall(ranks, ties, k) for k in limits], axis=0)
