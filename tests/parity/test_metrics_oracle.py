"""Figures against an oracle of other make: SciPy's ranking of each query's candidates, and Python's statistics."""

from __future__ import annotations

from statistics import fmean, median

import numpy as np
import pytest
from scipy.stats import rankdata

from clipvip.evaluation import retrieval_metrics

METHODS = {"average": "average", "optimistic": "min", "pessimistic": "max"}


def case(seed):
    """Scores with many ties or with none, videos with no caption, one or several, in any order."""
    rng = np.random.default_rng(seed)
    num_texts, num_videos = int(rng.integers(1, 40)), int(rng.integers(1, 25))
    owners = rng.integers(0, num_videos, num_texts)
    if seed % 2:
        return rng.integers(0, int(rng.integers(2, 12)), (num_texts, num_videos)) / 8.0, owners
    return rng.standard_normal((num_texts, num_videos)).astype(np.float32), owners


def place(true, others, ties):
    """The place of `true` when it and the others are sorted from the best on."""
    return rankdata([-true, *(-other for other in others)], method=METHODS[ties])[0]


def oracle(similarity, owners, ties):
    num_texts, num_videos = similarity.shape
    t2v, v2t = [], []
    for text in range(num_texts):
        others = [similarity[text, video] for video in range(num_videos) if video != owners[text]]
        t2v.append(place(similarity[text, owners[text]], others, ties))
    for video in range(num_videos):
        own = [similarity[text, video] for text in range(num_texts) if owners[text] == video]
        if own:
            others = [similarity[text, video] for text in range(num_texts) if owners[text] != video]
            v2t.append(place(max(own), others, ties))
    return {"t2v": summary(t2v), "v2t": summary(v2t)}


def summary(ranks):
    recalls = [100 * fmean(rank <= k for rank in ranks) for k in (1, 5, 10)]
    values = [*recalls, fmean(recalls), median(ranks), fmean(ranks)]
    return dict(zip(("R@1", "R@5", "R@10", "MeanR@", "MdR", "MnR"), values, strict=True))


@pytest.mark.parametrize("seed", range(200))
def test_figures_equal_the_oracles(seed):
    """Would catch any other counting of ties, captions or videos without one, in any figure of either direction."""
    similarity, owners = case(seed)
    for ties in METHODS:
        found, expected = retrieval_metrics(similarity, owners, ties=ties), oracle(similarity, owners, ties)
        for direction in ("t2v", "v2t"):
            assert found[direction] == pytest.approx(expected[direction]), (direction, ties)
