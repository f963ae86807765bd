"""Embedding sets in place of an encoder."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipvip.embedding_sets.layout import MEDIA, SetFacts, read_facts
from clipvip.encode import as_list, check_some_left
from clipvip.errors import ClipVipError, ManifestError, UsageError, VideoDecodeError
from clipvip.files import file_digest, parse_json
from clipvip.records import Clip, Embeddings

if TYPE_CHECKING:
    from clipvip.model.processing_clipvip import Media


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
    """Stored embeddings in place of a model: its methods are those of `clipvip.encode.EncoderProtocol`.

    They look up what was encoded, and raise ManifestError for anything else.
    """

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
    def clip_duration_s(self) -> float | None:
        """Mean duration of the clips that the model was trained on; None if it was not recorded."""
        return next((facts.clip_duration_s for facts in self.facts if facts.clip_duration_s), None)

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
        """All rows, a pyarrow table (see `layout.schema`).

        Raises: ClipVipError for a part that is missing, or is not as it was written.
        """
        return pa.concat_tables(
            [
                _read_part(file)
                for folder, facts in zip(self.folders, self.facts, strict=True)
                for file in _parts(folder, facts)
            ]
        )

    def rows(self, field: str) -> tuple[Any, np.ndarray]:
        """The rows of one field ("media", "captions", ...) without vectors, and their vectors float32 [N, E]."""
        chosen = self.table.filter(pc.equal(self.table["field"], field))
        return chosen.drop_columns("vector"), self._vectors(chosen["vector"])

    def encode_texts(self, texts: Iterable[str], *, progress: bool = False) -> np.ndarray:
        """Stored vectors of these texts, [N, E]. Raises: ManifestError for the first one that is not there."""
        texts = as_list("encode_texts", texts)
        row_of = self._row_of_text
        for text in texts:
            if text not in row_of:
                raise ManifestError(f"{self.folders[0]}: has no embedding of the text {str(text)[:60]!r}; encode again")
        return self._pick(self.table, [row_of[text] for text in texts])

    def encode_images(self, images: Iterable[Media], *, progress: bool = False) -> np.ndarray:
        """Stored vectors of these image files, [N, E]. Raises: ManifestError for the first one that is not there."""
        return self._look_up(as_list("encode_images", images))

    def encode_videos(self, videos: Iterable[Media], *, progress: bool = False) -> np.ndarray:
        """Stored vectors of these files, or (file, start_s, end_s) with the times of the manifest, [N, E].

        Raises: ManifestError for the first one that is not there.
        """
        return self._look_up(as_list("encode_videos", videos))

    def encode_clips(
        self, clips: Sequence[Clip], *, progress: bool = False, on_decode_error: Literal["raise", "skip"] = "raise"
    ) -> Embeddings:
        """Stored vectors of these clips.

        Raises: ManifestError for one that is not there; VideoDecodeError for one that could not be decoded then, or
        with "skip" if no clip is left.
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
        ids = tuple(clip.clip_id for clip in clips if clip.clip_id in row_of)
        vectors = self._pick(self._media, [row_of[id_] for id_ in ids])
        embeddings = Embeddings(ids, vectors, self.fingerprint, skipped)
        check_some_left(clips, embeddings)
        return embeddings

    def _look_up(self, media: Sequence[Media]) -> np.ndarray:
        columns = (self._media[name].to_pylist() for name in ("path", "start_s", "end_s"))
        row_of = {_place(*part): row for row, part in enumerate(zip(*columns, strict=True))}
        rows = []
        for item in media:
            if not isinstance(item, str | Path | tuple):
                raise ManifestError(f"{self.folders[0]}: has embeddings of files, not of frames; encode with a model")
            place = _place(*item) if isinstance(item, tuple) else _place(item)
            if place not in row_of:
                raise ManifestError(f"{self.folders[0]}: has no embedding of {item}; encode a manifest with it")
            rows.append(row_of[place])
        return self._pick(self._media, rows)

    @cached_property
    def _media(self) -> Any:
        return self.table.filter(pc.equal(self.table["field"], MEDIA))

    @cached_property
    def _row_of_text(self) -> dict[str, int]:
        return {text: row for row, text in enumerate(self.table["text"].to_pylist()) if text is not None}

    def _pick(self, table: Any, rows: Sequence[int]) -> np.ndarray:
        return self._vectors(table["vector"].take(np.array(rows, np.int64)))

    def _vectors(self, column: Any) -> np.ndarray:
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.ascontiguousarray(flat, np.float32).reshape(len(column), self.embedding_size)


def _place(path: Any, start_s: float | None = None, end_s: float | None = None) -> tuple[str, float, float]:
    """A part of a file, as a key; an open end is infinity."""
    return os.path.abspath(path), start_s or 0.0, math.inf if end_s is None else end_s


def _parts(folder: Path, facts: SetFacts) -> list[Path]:
    """The Parquet files of a set, in their order, compared with their receipts, or else with the number of rows."""
    way_out = "delete that file, if it is there, and run the same clipvip encode again"
    receipts = [_read_receipt(file) for file in sorted((folder / "receipts").glob("*.json"))]
    files = [folder / receipt["file"] for receipt in receipts] or sorted(folder.glob("embeddings-*.parquet"))
    for number, file in enumerate(files):
        expected = folder / f"embeddings-{number:06d}.parquet"
        if file != expected or not file.exists():
            raise ClipVipError(f"{expected}: this part of the embedding set is missing; {way_out}")
    for file, receipt in zip(files, receipts, strict=False):
        if file.stat().st_size != receipt["bytes"] or file_digest(file) != receipt["sha256"]:
            raise ClipVipError(f"{file}: this part of the embedding set is not as it was written; {way_out}")
    num_rows = sum(_num_rows(file) for file in files)
    if num_rows != facts.rows:
        raise ClipVipError(
            f"{folder}: {len(files)} parts with {num_rows} of {facts.rows} embeddings: a part is missing; copy the set "
            "again, or run the same clipvip encode again"
        )
    return files


def _read_receipt(path: Path) -> dict[str, Any]:
    try:
        receipt = parse_json(path.read_text(encoding="utf-8"))
        return {"file": str(receipt["file"]), "bytes": int(receipt["bytes"]), "sha256": str(receipt["sha256"])}
    except (ValueError, TypeError, KeyError):
        raise ClipVipError(
            f"{path}: damaged; delete that file and its part, and run the same clipvip encode again"
        ) from None


def _num_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (ValueError, OSError) as error:
        raise ClipVipError(_damaged(path, error)) from None


def _read_part(path: Path) -> Any:
    try:
        table = pq.read_table(path)
        table.validate(full=True)
        return table
    except (ValueError, OSError) as error:
        raise ClipVipError(_damaged(path, error)) from None


def _damaged(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return f"{path}: damaged ({reason}); delete that file and run the same clipvip encode again"
