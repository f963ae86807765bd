"""Background queries: texts that have nothing to do with the library, against which a query is compared.

They say whether anything was found at all (a false-alarm rate), and they re-score (QB-Norm).

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
of library and bank, separated present from absent less well on the small world, and no less depended on the bank.

Shapes: B background queries, n segments, E embedding size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipvip.data import read_manifest
from clipvip.errors import ClipVipWarning, InputError, SearchIndexError, UsageError
from clipvip.evaluation.rescoring import inverted_softmax
from clipvip.search.index.store import Store
from clipvip.search.query.exact import Scan, Scored, best_first

if TYPE_CHECKING:
    from clipvip.encode import EncoderProtocol

RESCORED = 1000
"""The segments with the best plain scores: these are re-scored."""
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
    """Background texts of a file: one per line, or the captions of a manifest (.jsonl).

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
                f"{path}: not a text file in UTF-8; give one text per line, or a manifest (.jsonl)"
            ) from None
    return choose_texts(texts, str(path))


def choose_texts(texts: Sequence[str], source: str) -> list[str]:
    """At most `MAX_TEXTS` different ones, always the same. Raises: UsageError for too few. source: for the error."""
    different = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if len(different) < MIN_TEXTS:
        raise UsageError(
            f"{source}: {len(different)} different background texts; a rate of false alarms needs {MIN_TEXTS} at least"
        )
    order = np.random.default_rng(0).permutation(len(different))[:MAX_TEXTS]
    return [different[i] for i in sorted(order)]


def background_vectors(store: Store, encoder: Callable[[], EncoderProtocol]) -> np.ndarray:
    """Those of the stored background queries, float32 [B, E]; where there are none, of clipvip's own, which are stored.

    Texts that another model encoded are encoded again. `store` itself stays at the version that it is at.
    """
    texts: list[str] = []
    if (stored := store.background_queries()) is not None:
        texts, vectors, fingerprint = stored
        if fingerprint == store.settings.fingerprint:
            return vectors
    texts = texts or choose_texts(default_texts(), "background.txt")
    vectors = _encode(texts, encoder())
    try:
        latest = Store.open(store.uri)
        if latest.settings.fingerprint == store.settings.fingerprint:
            latest.set_background(texts, vectors, upgrade=False)  # a search changes no schema
    except SearchIndexError as error:
        warnings.warn(f"{error}; the background queries are encoded each time", ClipVipWarning, stacklevel=2)
    return vectors


def set_background(store: Store, texts: Sequence[str], encoder: EncoderProtocol) -> None:
    """Store these background texts in place of others. Raises: SearchIndexError if the index cannot be written."""
    store.set_background(texts, _encode(texts, encoder))


def _encode(texts: Sequence[str], encoder: EncoderProtocol) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClipVipWarning)  # that a text is cut does not matter here
        return encoder.encode_texts(texts)


class RescoredScan:
    """QB-Norm in a search (see `evaluation.querybank_norm`): the best `RESCORED` segments in an order of their own.

    If the best of them is also the best of the library for a background query, each counts as much as it prefers this
    query to the background ones. queries: the vectors of these, [B, E]. tops: the best score of each in the whole
    library, [B].
    """

    def __init__(self, scan: Scan, queries: np.ndarray, tops: np.ndarray):
        self._scan = scan
        self._queries = queries
        similarity = queries @ scan.top(1).vectors.T  # [B, 1]
        self._active = bool((similarity >= tops[:, None] - 1e-6).any())

    def top(self, m: int) -> Scored:
        return self._rescored(self._scan.top(max(m, RESCORED)), m)

    def of_videos(self, video_ids: Sequence[str]) -> Scored:
        return self._rescored(self._scan.of_videos(video_ids), None)

    def scores(self, scores: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """What becomes of plain scores [n] of the segments `vectors` [n, E]."""
        return inverted_softmax(scores, self._queries @ vectors.T) if self._active else scores

    def _rescored(self, scored: Scored, m: int | None) -> Scored:
        return best_first(scored.rows, scored.vectors, self.scores(scored.scores, scored.vectors), m)
