"""Is what was found any good? A query against background queries, texts that have nothing to do with the library.

How high the best score of a query is says little by itself: scores differ from query to query and from library to
library. So it is compared with the best scores, in the same library and behind the same filters, of a bank of
background queries (a conformal test):

    p = (1 + how many background queries have a best answer at least as good) / (1 + how many there are)

If a query is for something that is not in the library, and is otherwise like the background queries, then p <= a with
probability at most a, whatever the model, the library and the form of the scores; to count as found is to have p <= a.
Background queries that *are* answered by the library make p larger, never smaller: then more is missed, but the rate
holds. What must be right is "like the background queries": the nearer a query is to what is in the library without
being in it (the same thing in another colour), the more often it passes for found, unless the bank has such texts too.
Texts of the kind that people ask for, or that the model was trained on, make the best bank.

The score is the plain one. Scores from which the query's own mean and spread over the library were taken, or the means
of library and bank, told present from absent less well on the small world, and no less depended on the bank.

Shapes: B background queries, n segments, E embedding size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from clipvip.data import read_manifest
from clipvip.errors import InputError, UsageError

MAX_TEXTS, MIN_TEXTS = 1000, 20
"""More would make p finer, not truer; with fewer, hardly a rate can be stated."""


def p_value(top: float, tops: np.ndarray) -> float:
    """Of a query whose best score is `top`, given those of the background queries, [B]."""
    return float((1 + (tops >= top).sum()) / (1 + len(tops)))


def best_scores(queries: np.ndarray, blocks: Iterable[np.ndarray]) -> np.ndarray:
    """The best score of each query [B, E] among segments that come in blocks [n, E]: float32 [B]; -inf for none."""
    tops = np.full(len(queries), -np.inf, np.float32)
    for block in blocks:
        if len(block):
            np.maximum(tops, (block @ queries.T).max(axis=0), out=tops)
    return tops


def default_texts() -> list[str]:
    """The background texts that come with clipvip: short captions of all sorts of scenes."""
    return files("clipvip.search.query").joinpath("background.txt").read_text(encoding="utf-8").splitlines()


def read_texts(path: str | Path) -> list[str]:
    """Background texts of a file: one a line, or the captions of a manifest (.jsonl).

    Raises: UsageError for too few; ManifestError for a malformed manifest.
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        texts = [text for clip in read_manifest(path) for text in clip.captions]
    else:
        try:
            texts = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise InputError(
                f"{path}: not a text file in UTF-8; give one text a line, or a manifest (.jsonl)"
            ) from None
    return chosen_texts(texts, str(path))


def chosen_texts(texts: Sequence[str], source: str) -> list[str]:
    """At most `MAX_TEXTS` different ones, always the same. Raises: UsageError for too few. source: for the error."""
    different = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if len(different) < MIN_TEXTS:
        raise UsageError(
            f"{source}: {len(different)} different background texts; a rate of false alarms needs {MIN_TEXTS} at least"
        )
    order = np.random.default_rng(0).permutation(len(different))[:MAX_TEXTS]
    return [different[i] for i in sorted(order)]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each of them [..., E] at unit norm; zero stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, 1e-12)
