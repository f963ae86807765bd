"""The gap between kinds of text: can a blind clustering of their features tell them apart?

Texts of two sources are encoded and mixed, k-means cuts the mixture in two, and the normalised mutual information (NMI)
of cluster and source says how far the cut is the one between the sources: 0 not at all, 1 exactly.

Shapes: n texts of a draw, E embedding size.
Source: CLIP-ViP, section 3.2 (1,000 texts of each source, k = 2, mean of 10 draws).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clipvip.analysis.text_sources import TextSource
from clipvip.errors import UsageError

if TYPE_CHECKING:
    from clipvip.encode import EncoderProtocol

NUM_TEXTS, NUM_DRAWS = 1000, 10
"""The paper's."""
NUM_STARTS = 10
"""k-means is started so often and the tightest clustering counts, so that no unlucky start decides. (Ours: the paper
does not say.)"""
_CHUNK = 1024  # texts between two signs of life


@dataclass(frozen=True, slots=True)
class Pair:
    """The gap between two sources; of a source and itself, between two halves of its draws: what no gap looks like.

    draws: NMI of each draw.
    """

    a: str
    b: str
    draws: tuple[float, ...]

    @property
    def nmi(self) -> float:
        """The mean over draws."""
        return float(np.mean(self.draws))

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % (Student's t) for the mean over draws from these texts, within 0 to 1; None for a single draw."""
        from scipy import stats  # type: ignore[import-untyped]  # what scikit-learn is made of

        if len(self.draws) < 2:
            return None
        reach = float(stats.t.ppf(0.975, len(self.draws) - 1) * np.std(self.draws, ddof=1) / len(self.draws) ** 0.5)
        return max(self.nmi - reach, 0.0), min(self.nmi + reach, 1.0)


@dataclass(frozen=True, slots=True)
class Gap:
    """The gaps between all sources, or between those that are rows of a table and those that are its columns.

    features [sources * n, E] and texts: of the first draw, source by source. num_rows: how many of the sources, the
    first, are rows; the others are columns. 0: all are both.
    """

    sources: tuple[TextSource, ...]
    fingerprint: str
    num_texts: int
    seed: int
    pairs: tuple[Pair, ...]
    features: np.ndarray
    texts: tuple[str, ...]
    num_rows: int = 0

    @property
    def rows(self) -> list[str]:
        """Names of the sources that are rows."""
        return [source.name for source in self.sources[: self.num_rows or None]]

    @property
    def columns(self) -> list[str]:
        """Names of the sources that are columns."""
        return [source.name for source in self.sources[self.num_rows :]]

    def matrix(self) -> np.ndarray:
        """NMI [rows, columns]."""
        nmi = {frozenset((pair.a, pair.b)): pair.nmi for pair in self.pairs}
        return np.array([[nmi[frozenset((row, column))] for column in self.columns] for row in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "fingerprint": self.fingerprint,
            "num_texts": self.num_texts,
            "num_draws": len(self.pairs[0].draws),
            "seed": self.seed,
            "sources": [
                {"name": source.name, "path": str(source.path), "field": source.field, "num_texts": source.num_texts}
                for source in self.sources
            ],
            "pairs": [
                {"a": pair.a, "b": pair.b, "nmi": pair.nmi, "interval": pair.interval, "draws": list(pair.draws)}
                for pair in self.pairs
            ],
            "rows": self.rows,
            "columns": self.columns,
            "matrix": self.matrix().tolist(),
        }


def measure_gap(
    sources: Sequence[TextSource],
    encoder: EncoderProtocol | None = None,
    *,
    against: Sequence[TextSource] = (),
    num_texts: int = NUM_TEXTS,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda count, total: None,
) -> Gap:
    """NMI between every two sources, and between halves of each one's draws.

    against: with these, NMI between each of the sources and each of these instead, as in the paper's Table 1 (kinds of
    pre-training text by downstream set). encoder: needed unless all sources are embedding sets. num_texts: of each
    source in a draw. A draw of a source is the same whatever it is compared with. progress: called with how many texts
    and clusterings more are done, and of how many.
    Raises: ManifestError if a source has too few texts; UsageError if a model is missing, or another than that of an
    embedding set.
    """
    num_rows = len(sources) if against else 0
    sources = [*sources, *against]
    if num_texts < 4 or num_draws < 1:
        raise UsageError(f"--num-texts {num_texts} --draws {num_draws}: at least 4 texts and one draw are needed")
    drawn = [[source.draw(num_texts, seed, draw) for draw in range(num_draws)] for source in sources]  # before the work
    fingerprint = _one_fingerprint(sources, encoder)
    used = [np.unique(np.concatenate(numbers)) for numbers in drawn]
    names = [source.name for source in sources]
    between = itertools.product(names[:num_rows], names[num_rows:]) if against else itertools.combinations(names, 2)
    couples = [*between, *((name, name) for name in names)]
    to_encode = sum(len(some) for source, some in zip(sources, used, strict=True) if source.stored is None)
    total = to_encode + len(couples) * num_draws

    features: dict[str, list[np.ndarray]] = {}
    shown: list[str] = []
    for source, numbers, mine in zip(sources, drawn, used, strict=True):
        texts, vectors = source.pick(mine), source.vectors(mine)
        if vectors is None:
            vectors = _encoded(texts, encoder, lambda count: progress(count, total))
        rows = [np.searchsorted(mine, draw) for draw in numbers]
        features[source.name] = [vectors[some] for some in rows]
        shown += [texts[row] for row in rows[0]]

    pairs = []
    for a, b in couples:
        values = []
        for draw in range(num_draws):
            values.append(_gap(features, a, b, draw, seed))
            progress(1, total)
        pairs.append(Pair(a, b, tuple(values)))
    first = np.concatenate([features[name][0] for name in names])
    return Gap(tuple(sources), fingerprint, num_texts, seed, tuple(pairs), first, tuple(shown), num_rows)


def cluster_nmi(a: np.ndarray, b: np.ndarray, seed: int) -> float:
    """NMI of source and k-means cluster (k = 2) over the rows of both, [n, E] each. 0 if all rows are alike."""
    try:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.metrics import normalized_mutual_info_score
    except ModuleNotFoundError:
        raise UsageError('analyse gap needs scikit-learn: install it with `pip install "clipvip[analyse]"`') from None
    mixed = np.concatenate([a, b]).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer than two different rows: one cluster, NMI 0
        clusters = KMeans(2, n_init=NUM_STARTS, random_state=seed).fit_predict(mixed)
    return float(normalized_mutual_info_score([0] * len(a) + [1] * len(b), clusters))


def project(features: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Rows [N, E] in the plane, float64 [N, 2].

    method: "pca", whose shares of the variance come second, or "tsne", which keeps neighbours and has no such shares.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = features.astype(np.float64)
    if method == "tsne":
        perplexity = min(30.0, (len(rows) - 1) / 3)
        return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows), None
    pca = PCA(2, svd_solver="full")
    plane = pca.fit_transform(rows)
    first, second = pca.explained_variance_ratio_
    return plane, (float(first), float(second))


def _gap(features: dict[str, list[np.ndarray]], a: str, b: str, draw: int, seed: int) -> float:
    if a == b:
        own = features[a][draw]
        return cluster_nmi(own[: len(own) // 2], own[len(own) // 2 :], seed + draw)
    first, second = sorted((a, b))  # k-means depends on the order of rows; the gap must not on that of the sources
    return cluster_nmi(features[first][draw], features[second][draw], seed + draw)


def _one_fingerprint(sources: Sequence[TextSource], encoder: EncoderProtocol | None) -> str:
    found = {} if encoder is None else {"--model": encoder.fingerprint}
    for source in sources:
        if source.stored is not None:
            found[str(source.path)] = source.stored.fingerprint
        elif encoder is None:
            raise UsageError(f"{source.path}: has no embeddings; give a text encoder as --model M")
    first, *others = found
    for other in others:
        if found[other] != found[first]:
            raise UsageError(
                f"{other}: of another model (fingerprint {found[other]}) than {first} ({found[first]}): "
                "their features do not compare"
            )
    return found[first]


def _encoded(texts: Sequence[str], encoder: EncoderProtocol | None, told: Callable[[int], None]) -> np.ndarray:
    """Features [len(texts), E]."""
    assert encoder is not None  # checked with the fingerprints
    parts = []
    for some in (texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK)):
        parts.append(encoder.encode_texts(some))
        told(len(some))
    return np.concatenate(parts)
