"""The gap between kinds of text: does a blind clustering of their features separate them?

Texts of two sources are encoded and mixed, k-means cuts the mixture in two, and the normalised mutual information (NMI)
of cluster and source says how far the cut is the one between the sources: 0 not at all, 1 exactly.

Shapes: n texts of a draw, E embedding size.
Source: CLIP-ViP, section 3.2 (1,000 texts of each source, k = 2, mean of 10 draws).
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipvip.analysis.plots import FULL_IN, HEAT, drawing, look, note
from clipvip.analysis.text_sources import TextSource
from clipvip.errors import UsageError
from clipvip.files import replace_text

if TYPE_CHECKING:
    from clipvip.encode import EncoderProtocol

NUM_TEXTS, NUM_DRAWS = 1000, 10
"""The paper's."""
PROJECTIONS = {"pca": "PCA", "tsne": "t-SNE"}
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


def _encoded(texts: Sequence[str], encoder: EncoderProtocol | None, on_texts: Callable[[int], None]) -> np.ndarray:
    """Features [len(texts), E]."""
    assert encoder is not None  # checked with the fingerprints
    parts = []
    for some in (texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK)):
        parts.append(encoder.encode_texts(some))
        on_texts(len(some))
    return np.concatenate(parts)


def write_gap(out: Path, gap: Gap, report: dict[str, Any], projection: str) -> None:
    """Write the files into the folder `out`. report: what gap.json holds; projection: "pca" or "tsne"."""
    replace_text(out / "gap.json", json.dumps(report | {"projection": projection}, indent=2) + "\n")
    draw_matrix(out / "gap", gap, report["model"])
    draw_plane(out / "projection", gap, report["model"], projection)


def draw_matrix(stem: Path, gap: Gap, model: str) -> None:
    """The NMI of every row with every column as a heat map."""
    rows = []
    for pair in gap.pairs:
        low, high = pair.interval or (None, None)
        rows.append(
            {
                "source_a": pair.a,
                "source_b": pair.b,
                "nmi": pair.nmi,
                "low_95": low,
                "high_95": high,
                "num_draws": len(pair.draws),
                "texts_of_a": gap.num_texts // 2 if pair.a == pair.b else gap.num_texts,
            }
        )
    cell = 0.75
    height = min(max(2.6, cell * len(gap.rows) + 1.6), 8.5)
    with drawing(stem, rows, width=FULL_IN, height=height) as figure:
        axes = figure.subplots()
        matrix = gap.matrix()
        image = axes.imshow(matrix, cmap=HEAT, vmin=0.0, vmax=1.0)
        for (i, j), value in np.ndenumerate(matrix):
            axes.text(j, i, f"{value:.3f}", ha="center", va="center", color="white" if value > 0.6 else "black")
        axes.set_xticks(range(len(gap.columns)), gap.columns, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(gap.rows)), gap.rows)
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, label="NMI (0 to 1; larger = wider gap)", shrink=0.9)
        note(
            figure,
            f"Normalised mutual information between source and k-means cluster (k = 2, best of {NUM_STARTS} starts) of "
            f"{gap.num_texts:,} texts of each of two sources; mean of {len(gap.pairs[0].draws)} draws. "
            f"{'' if gap.num_rows else 'Diagonal: two halves of one source. '}Text features: {model}.",
        )


def draw_plane(stem: Path, gap: Gap, model: str, method: str) -> None:
    """The texts of the first draw as points in the plane."""
    plane, shares = project(gap.features, method, gap.seed)
    names = [source.name for source in gap.sources for _ in range(gap.num_texts)]
    rows = [
        {"source": name, "x": float(x), "y": float(y), "text": text}
        for name, (x, y), text in zip(names, plane, gap.texts, strict=True)
    ]
    with drawing(stem, rows, height=4.4) as figure:
        axes = figure.subplots()
        for number, source in enumerate(gap.sources):
            points = plane[number * gap.num_texts : (number + 1) * gap.num_texts]
            style = look(number) | {"linestyle": "none"}
            axes.plot(*points.T, **style, markersize=3, alpha=0.6, markeredgewidth=0, label=source.name)
        if shares is None:
            axes.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)")
            meaning = "near points are alike; distances between groups, and their sizes, mean nothing."
        else:
            first, second = (f"({share:.1%} of the variance)" for share in shares)
            axes.set(xlabel=f"principal component 1 {first}", ylabel=f"principal component 2 {second}")
            meaning = "the plane in which the features vary most; sources that overlap here may differ elsewhere."
        figure.legend(loc="outside upper left", ncols=min(4, len(gap.sources)), markerscale=2)
        note(
            figure,
            f"{PROJECTIONS[method]} of the text features of {model}, {gap.num_texts:,} texts of each source (the first "
            f"draw): {meaning}",
        )
