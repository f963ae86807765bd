"""Embedding sets in place of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipvip.embedding_sets.layout import MEDIA, SetFacts, read_facts
from clipvip.errors import ManifestError, UsageError, VideoDecodeError
from clipvip.records import Clip, Embeddings


def open_embeddings(*folders: str | Path) -> EmbeddingSet:
    """One set of one or several folders, as `clipvip encode` writes them.

    Raises: UsageError if one is no finished set, or if they are of different models.
    """
    paths = [Path(folder) for folder in folders]
    facts = [read_facts(path) for path in paths]
    for path, other in zip(paths, facts, strict=True):
        if other.fingerprint != facts[0].fingerprint:
            raise UsageError(
                f"{path}: of another model ({other.model}, fingerprint {other.fingerprint}) than {paths[0]} "
                f"({facts[0].model}, {facts[0].fingerprint}); their embeddings do not compare: encode one of them again"
            )
    return EmbeddingSet(paths, facts)


class EmbeddingSet:
    """Stored embeddings, with the methods of `clipvip.Encoder` that retrieval needs: evaluation takes it for one."""

    def __init__(self, folders: Sequence[Path], facts: Sequence[SetFacts]):
        self.folders = folders
        self.facts = facts

    @property
    def fingerprint(self) -> str:
        """Of the model that made it."""
        return self.facts[0].fingerprint

    @property
    def embedding_size(self) -> int:
        """E."""
        return self.facts[0].embedding_size

    @property
    def dtype(self) -> str:
        """What the model computed in."""
        return ", ".join(sorted({facts.dtype for facts in self.facts}))

    @property
    def sampling(self) -> dict[str, Any]:
        """Frames, their size and so on, as `Encoder.sampling`."""
        return self.facts[0].sampling

    @cached_property
    def table(self) -> Any:
        """All rows, a pyarrow table (see `layout.schema`)."""
        import pyarrow as pa

        files = [file for folder in self.folders for file in sorted(folder.glob("embeddings-*.parquet"))]
        return pa.concat_tables([pq.read_table(file) for file in files])

    def rows(self, field: str) -> tuple[Any, np.ndarray]:
        """The rows of one field ("media", "captions", ...) without vectors, and their vectors float32 [N, E]."""
        chosen = self.table.filter(pc.equal(self.table["field"], field))
        return chosen.drop_columns("vector"), self._vectors(chosen)

    def encode_texts(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Stored vectors of these texts, [N, E]. Raises: ManifestError for the first one that is not there."""
        row_of = self._row_of_text
        for text in texts:
            if text not in row_of:
                raise ManifestError(f"{self.folders[0]}: has no embedding of the text {text[:60]!r}; encode again")
        rows = np.array([row_of[text] for text in texts], np.int64)
        return self._vectors(self.table.take(rows)) if len(rows) else np.empty((0, self.embedding_size), np.float32)

    def encode_clips(
        self, clips: Sequence[Clip], *, progress: bool = False, on_decode_error: Literal["raise", "skip"] = "raise"
    ) -> Embeddings:
        """Stored vectors of these clips.

        Raises: ManifestError for one that is not there; VideoDecodeError for one that could not be decoded then.
        """
        row_of = {id_: row for row, id_ in enumerate(self._media["clip_id"].to_pylist())}
        failures = {id_: reason for facts in self.facts for id_, reason in facts.failures.items()}
        skipped: dict[str, str] = {}
        for clip in clips:
            if clip.clip_id in row_of:
                continue
            if clip.clip_id not in failures:
                raise ManifestError(f"{clip.clip_id}: not in {self.folders[0]}; encode the manifest again")
            if on_decode_error == "raise":
                raise VideoDecodeError(failures[clip.clip_id])
            skipped[clip.clip_id] = failures[clip.clip_id]
        ids = [clip.clip_id for clip in clips if clip.clip_id in row_of]
        if not ids:
            raise VideoDecodeError(f"{self.folders[0]}: not one of {len(clips)} clips could be decoded")
        rows = self._media.take(np.array([row_of[id_] for id_ in ids], np.int64))
        return Embeddings(tuple(ids), self._vectors(rows), self.fingerprint, skipped)

    @cached_property
    def _media(self) -> Any:
        return self.table.filter(pc.equal(self.table["field"], MEDIA))

    @cached_property
    def _row_of_text(self) -> dict[str, int]:
        return {text: row for row, text in enumerate(self.table["text"].to_pylist()) if text is not None}

    def _vectors(self, table: Any) -> np.ndarray:
        flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.ascontiguousarray(flat, np.float32).reshape(len(table), self.embedding_size)
