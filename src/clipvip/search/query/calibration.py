"""The background queries of an index (table `background`: text, vector), and what they get in its library.

The schema of the table carries the fingerprint of the model that encoded them.

Shapes: B background queries, n segments, E embedding size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from clipvip.errors import ClipVipWarning, SearchIndexError
from clipvip.evaluation.rescoring import inverted_softmax
from clipvip.search.index._lance import one_line_errors, open_if_there
from clipvip.search.index.checksums import row_checksums
from clipvip.search.index.store import Store
from clipvip.search.query.ann import vectors_of
from clipvip.search.query.background import chosen_texts, default_texts
from clipvip.search.query.exact import Scan, Scored, best_first

if TYPE_CHECKING:
    from clipvip.encode import EncoderProtocol

FINGERPRINT, CHECKSUM = b"fingerprint", b"checksum"
RESCORED = 1000
"""The segments with the best plain scores: these are re-scored."""


class Bank:
    """vectors: of the background queries, float32 [B, E], unit norm."""

    def __init__(self, vectors: np.ndarray):
        self.vectors = vectors


def open_bank(store: Store, encoder: Callable[[], EncoderProtocol]) -> Bank:
    """The stored bank; where there is none, the texts that come with clipvip, which are stored if that is possible.

    The texts of a bank of another model are encoded again. `store` itself stays at the version that it is at.
    """
    texts = None
    if (table := bank_table(store)) is not None:
        rows = store.read(table)
        if not is_sound_bank(rows):
            raise SearchIndexError(
                f"{store.uri}: its background queries are damaged; `clipvip library verify --index {store.uri}` "
                "removes them, and clipvip's own take their place"
            )
        if (rows.schema.metadata or {}).get(FINGERPRINT, b"").decode() == store.settings.fingerprint:
            return Bank(vectors_of(rows))
        texts = rows["text"].to_pylist()
    texts = texts or chosen_texts(default_texts(), "background.txt")
    bank = Bank(_encoded(texts, encoder()))
    try:
        latest = Store.open(store.uri)
        if latest.settings.fingerprint == store.settings.fingerprint:
            _write(latest, texts, bank, upgrade=False)  # a search changes no schema
    except SearchIndexError as error:
        warnings.warn(f"{error}; the background queries are encoded each time", ClipVipWarning, stacklevel=2)
    return bank


def write_bank(store: Store, texts: Sequence[str], encoder: EncoderProtocol) -> None:
    """Store these background texts in place of others. Raises: SearchIndexError if the index cannot be written."""
    _write(store, texts, Bank(_encoded(texts, encoder)))


def bank_table(store: Store) -> Any:
    """The latest version of the table, or None if there is none."""
    with one_line_errors(store.uri, "cannot be read"):
        return open_if_there(store.database, "background")


def is_sound_bank(rows: Any) -> bool:
    """Whether the table of background queries is as it was written. One of an older clipvip has no checksum."""
    if not {"text", "vector"} <= set(rows.column_names):
        return False
    recorded = (rows.schema.metadata or {}).get(CHECKSUM)
    return recorded is None or recorded == _checksum(rows)


def _checksum(rows: Any) -> bytes:
    return f"{np.bitwise_xor.reduce(row_checksums(rows, ['text', 'vector'])):d} {len(rows)}".encode()


def _write(store: Store, texts: Sequence[str], bank: Bank, *, upgrade: bool = True) -> None:
    column = pa.FixedSizeListArray.from_arrays(bank.vectors.ravel(), store.settings.embedding_size)
    rows = pa.table({"text": list(texts), "vector": column})
    rows = rows.replace_schema_metadata({FINGERPRINT: store.settings.fingerprint, CHECKSUM: _checksum(rows)})

    def write() -> None:  # to overwrite nothing is worth a warning to LanceDB
        mode = "create" if bank_table(store) is None else "overwrite"
        store.database.create_table("background", rows, mode=mode)

    store.write(write, upgrade=upgrade)


def _encoded(texts: Sequence[str], encoder: EncoderProtocol) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClipVipWarning)  # that a text is cut is no news here
        return encoder.encode_texts(texts)


class RescoredScan:
    """QB-Norm in a search (see `evaluation.querybank_norm`): the best `RESCORED` segments in an order of their own.

    If the best of them is also the best of the library for a background query, each counts as much as it prefers this
    query to the background ones. tops: the best score of each background query in the whole library, [B].
    """

    def __init__(self, scan: Scan, bank: Bank, tops: np.ndarray):
        self._scan = scan
        self._bank = bank
        likenesses = bank.vectors @ scan.top(1).vectors.T  # [B, 1]
        self._active = bool((likenesses >= tops[:, None] - 1e-6).any())

    def top(self, m: int) -> Scored:
        """As `Scan.top`."""
        return self._rescored(self._scan.top(max(m, RESCORED)), m)

    def of_videos(self, video_ids: Sequence[str]) -> Scored:
        """As `Scan.of_videos`."""
        return self._rescored(self._scan.of_videos(video_ids), None)

    def scores(self, scores: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """What becomes of plain scores [n] of the segments `vectors` [n, E]."""
        return inverted_softmax(scores, self._bank.vectors @ vectors.T) if self._active else scores

    def _rescored(self, scored: Scored, m: int | None) -> Scored:
        return best_first(scored.rows, scored.vectors, self.scores(scored.scores, scored.vectors), m)
