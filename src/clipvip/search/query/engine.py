"""From a query to its answers: vectors of the terms, best segments, merged windows, a page of hits.

Shapes: B background queries, E embedding size.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clipvip.errors import InputError, UsageError
from clipvip.files import same_name
from clipvip.search.index._lance import EXACT_ROWS, lance_errors
from clipvip.search.index.mmap_cache import cache_folder, load_or_make, note_facts, open_snapshot, read_snapshot
from clipvip.search.index.store import Store
from clipvip.search.query.ann import IndexedSegments
from clipvip.search.query.calibration import RescoredScan, background_vectors, best_scores, p_value
from clipvip.search.query.exact import ExactSegments, Scan, Segments
from clipvip.search.query.filters import Condition, conditions
from clipvip.search.query.merge import find_hits
from clipvip.search.query.query import Filters, Query, Results, Term
from clipvip.video import read_frames, read_image

if TYPE_CHECKING:
    from clipvip.encode import EncoderProtocol

MAX_CACHED_FILTERS = 16
"""Of whose segments the background scores are kept in memory."""


class Searcher:
    """Answers queries from the tables of one index. encoder: is called when a term, or calibration, needs it."""

    def __init__(self, store: Store, encoder: Callable[[], EncoderProtocol]):
        self._store = store
        self._encoder = encoder
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._opened: tuple[int, Segments] | None = None
        self._background: np.ndarray | None = None
        self._tops: OrderedDict[str, np.ndarray] = OrderedDict()

    def answer(self, query: Query) -> Results:
        filters = self.conditions(query.filters)
        vector = self.vector(query.terms)  # [E]
        segments = self.segments(exact=query.exact)
        scan = segments.scan(vector, filters)
        p = None if query.false_alarm is None else self._p_value(query, segments, scan, filters)
        baseline = float(segments.mean @ vector) if query.merge else 0.0
        if query.rescore == "qbnorm":
            scan, baseline = self._rescored(segments, scan, vector, baseline)
        hits = find_hits(query, scan, baseline)
        return Results(tuple(hits), bool(hits) and (p is None or p <= (query.false_alarm or 0.0)), p)

    def conditions(self, filters: Filters) -> list[Condition]:
        """Raises: UsageError for a root that the index does not have, and as `filters.conditions`."""
        if filters == Filters():
            return []
        found = conditions(filters)
        if filters.root is not None:
            roots = self._store.root_names()
            found = [
                each._replace(value=same_name(str(each.value), roots)) if each.column == "root" else each
                for each in found
            ]
            if not any(column == "root" and value in roots for column, _, value in found):
                raise UsageError(
                    f"root: {filters.root} is not a folder of this index; it has {', '.join(roots) or 'none'} "
                    "(for a folder within one, filter by path)"
                )
        return found

    def vector(self, terms: Sequence[Term]) -> np.ndarray:
        """The weighted sum of the terms' unit vectors, made unit norm: float32 [E].

        Raises: VideoDecodeError for a file that cannot be read; UsageError if the terms cancel each other out.
        """
        checked = [self._check(term) for term in terms]  # mistakes are found before the model is loaded
        vectors = np.stack([self._embed(term, known) for term, known in zip(terms, checked, strict=True)])
        weights = np.array(_relative_weights(terms), np.float32)
        total = weights @ vectors
        norm = float(np.linalg.norm(total))
        if not norm >= 1e-6 * np.abs(weights).sum():
            raise UsageError(
                "the terms of the query cancel each other out, nothing is left to look for; change a weight"
            )
        return (total / norm).astype(np.float32)

    def segments(self, *, exact: bool = False) -> Segments:
        """The segments of the table's version. exact: search no approximate index."""
        with self._lock:
            version = self._store.version
            if self._opened is None or self._opened[0] != version:
                self._opened = version, self._open()
                self._tops.clear()
        segments = self._opened[1]
        if exact and isinstance(segments, IndexedSegments):
            return IndexedSegments(self._store.segments, self._store.read, self._store.checked, exact=True)
        return segments

    @property
    def background(self) -> np.ndarray:
        """The background queries, float32 [B, E]; the first caller may have to encode them, and the others wait."""
        with self._opening:
            if self._background is None:
                self._background = background_vectors(self._store, self._encoder)
            return self._background

    def _open(self) -> Segments:
        store = self._store
        if store.num_segments > EXACT_ROWS:
            return IndexedSegments(store.segments, store.read, store.checked)
        folder, size = cache_folder(store.uri), store.settings.embedding_size
        if store.facts is not None:
            snapshot = read_snapshot(folder, f"segments-{store.version_key}", size)
            if snapshot is not None:
                return ExactSegments(*snapshot)
        with lance_errors(store.uri, "cannot be read"):
            snapshot = open_snapshot(store.segments, size, folder, store.checked)
            note_facts(store.uri, store.segments, store.settings)
            return ExactSegments(*snapshot)

    def _check(self, term: Term) -> Any:
        """All that needs no model: the vector of a term if it is known, or its image."""
        if term.vector is not None or term.segment is not None:
            vector = self._store.vector(term.segment or "") if term.vector is None else term.vector
            vector = np.asarray(vector, np.float32)
            if vector.shape != (self._store.settings.embedding_size,):
                raise InputError(
                    f"a query's vector has shape {list(vector.shape)}, expected [{self._store.settings.embedding_size}]"
                )
            return vector
        if term.image is not None:
            return read_image(term.image)
        if term.video is not None:
            path, span = (term.video[0], term.video[1:]) if isinstance(term.video, tuple) else (term.video, None)
            read_frames(path, [0], time_range=span)
        return None

    def _embed(self, term: Term, checked: Any) -> np.ndarray:
        """float32 [E], unit norm. checked: what `_check` found."""
        if term.vector is not None or term.segment is not None:
            return np.asarray(checked)
        if term.image is not None:
            return self._encoder().encode_images([checked])[0]
        if term.video is not None:
            return self._encoder().encode_videos([term.video])[0]
        return self._encoder().encode_texts([term.text or ""])[0]

    def _p_value(self, query: Query, segments: Segments, scan: Scan, filters: Sequence[Condition]) -> float:
        """How often a background query of the form of this one has a best answer that is at least as good.

        Raises: UsageError for a rate that needs more background queries.
        """
        vectors, rate = self.background, query.false_alarm or 0.0
        lowest = 1 / (1 + len(vectors))
        if rate < lowest:
            raise UsageError(
                f"false_alarm={rate:g}: {len(vectors)} background queries tell no rate below {lowest:.4f}; "
                "choose a higher one, or give the index more (clipvip index --background FILE)"
            )
        if len(query.terms) > 1 or query.terms[0].weight < 0:  # background texts to be found, the same not to be
            total = np.zeros_like(vectors)
            for number, (term, weight) in enumerate(zip(query.terms, _relative_weights(query.terms), strict=True)):
                is_wanted = weight > 0
                total += weight * (
                    np.roll(vectors, number, axis=0) if is_wanted else self._embed(term, self._check(term))
                )
            vectors = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
        best = scan.top(1).scores
        return p_value(best[0], self._best_scores(vectors, segments, filters)) if len(best) else 1.0

    def _rescored(
        self, segments: Segments, scan: Scan, vector: np.ndarray, baseline: float
    ) -> tuple[RescoredScan, float]:
        rescored = RescoredScan(scan, self.background, self._best_scores(self.background, segments, ()))
        if len(segments.sample):
            baseline = float(rescored.scores(segments.sample @ vector, segments.sample).mean())
        return rescored, baseline

    def _best_scores(self, queries: np.ndarray, segments: Segments, filters: Sequence[Condition]) -> np.ndarray:
        """The best score of each of these vectors [B, E] among the segments that pass the filters, float32 [B].

        Kept in memory; those of the background queries in a whole library, in a file.
        """
        digest = hashlib.sha256(repr(list(filters)).encode() + np.ascontiguousarray(queries).tobytes()).hexdigest()[:16]
        key = f"{self._store.version_key}-{digest}"
        tops = self._tops.get(key)
        if tops is None:
            name = f"tops-{key}.npy" if queries is self.background and not filters else None
            folder = cache_folder(self._store.uri)
            tops = load_or_make(folder, name, lambda: best_scores(queries, segments.blocks(filters)))
            with self._lock:
                self._tops[key] = tops
                while len(self._tops) > MAX_CACHED_FILTERS:
                    self._tops.popitem(last=False)
        return tops


def _relative_weights(terms: Sequence[Term]) -> list[float]:
    """Weights as shares of the largest one: sums of very small or very large ones would be 0, or infinite."""
    largest = max(abs(term.weight) for term in terms)
    return [term.weight / largest for term in terms]
