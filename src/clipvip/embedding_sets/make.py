"""Encode a manifest, in numbered parts, on this machine or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from clipvip.data import read_manifest
from clipvip.embedding_sets.layout import FACTS, MEDIA, TEXT_FIELDS, SetFacts, schema, write_facts
from clipvip.encode import Encoder, load
from clipvip.errors import CheckpointError
from clipvip.files import file_digest
from clipvip.jobs import Beat, Engine, local, run_job, time_limit_s
from clipvip.records import Clip
from clipvip.versions import versions
from clipvip.video import READING_RULES

PATIENCE_S = 600.0
"""A worker may be silent this long: loading a model over a network counts."""


@dataclass(slots=True)
class EncodeTask:
    """Embeddings of clips and their texts: one Parquet file a part.

    fingerprint: the worker's model must have it. texts: encode captions, subtitles and auxiliary captions too.
    device, dtype: as `clipvip.load` takes them. threads: of torch in each worker; None: its own choice.
    """

    model: str
    fingerprint: str
    texts: bool
    device: str
    dtype: str
    batch_size: int = 16
    threads: int | None = None
    memory_bytes: int | None = None
    name: str = "embeddings"
    suffix: str = ".parquet"

    def settings(self) -> dict[str, Any]:
        """What the vectors depend on."""
        return {"fingerprint": self.fingerprint, "texts": self.texts, "dtype": self.dtype}

    def name_of(self, item: Clip) -> str:
        """The clip_id."""
        return item.clip_id

    def timeout_s(self, item: Clip) -> float:
        """More for large files."""
        return time_limit_s(item.path, PATIENCE_S)

    def run(self, items: Sequence[Clip], path: Path, beat: Beat) -> dict[str, Any]:
        """Write the rows of one part, clip by clip: its media, then its texts."""
        encoder = _loaded(self.model, self.device, self.dtype, self.threads)
        if encoder.fingerprint != self.fingerprint:
            raise CheckpointError(
                f"{self.model}: has fingerprint {encoder.fingerprint} here, but the job began with {self.fingerprint}; "
                "all machines must see the same model"
            )
        beat(0)
        found = encoder.encode_decodable(items, batch_size=self.batch_size, on_done=beat)
        vector_of = dict(zip(found.ids, found.vectors, strict=True))
        rows: list[dict[str, Any]] = []
        for clip in items:
            place = {"clip_id": clip.clip_id, "path": str(clip.path), "start_s": clip.start_s, "end_s": clip.end_s}
            if clip.clip_id in vector_of:
                rows.append({**place, "field": MEDIA, "number": 0, "vector": vector_of[clip.clip_id]})
            rows += [{**place, **text} for text in _texts_of(clip)] if self.texts else []
        said = [row for row in rows if row["field"] != MEDIA]
        for row, vector in zip(said, encoder.encode_texts([row["text"] for row in said]), strict=True):
            row["vector"] = vector
        table = pa.Table.from_pylist(rows, schema=schema(encoder.embedding_size))
        pq.write_table(table, path, compression="zstd")
        failures = [list(failure) for failure in found.skipped.items()]
        return {"rows": len(rows), "failures": failures, "reading_rules": READING_RULES}


def encode_manifest(
    manifest: Path,
    out: Path,
    *,
    model: str,
    videos: Path | None = None,
    split: str | None = None,
    texts: bool = True,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 16,
    part_size: int = 1000,
    workers: int = 1,
    engine: Engine = local,
    max_bad_share: float | None = None,
    progress: Callable[[int, int], None] = lambda count, total: None,
) -> SetFacts:
    """Make (or go on with) the embedding set `out` of the clips of a manifest.

    Clips that cannot be decoded are left out and listed in the facts. engine, workers: see `jobs.run_job`. progress: is
    told how many clips more are done, and of how many.
    Raises: ManifestError, CheckpointError; UsageError if `out` is of another job; ClipVipError if too many are bad.
    """
    clips = read_manifest(manifest, videos=videos, split=split)
    encoder = load(model, device="cpu" if engine is not local else device, dtype=dtype)
    threads = max(1, torch.get_num_threads() // workers) if engine is local and workers > 1 else None
    task = EncodeTask(model, encoder.fingerprint, texts, device, encoder.dtype, batch_size, threads)
    (out / FACTS).unlink(missing_ok=True)
    receipts = run_job(
        task, clips, out, part_size=part_size, workers=workers, engine=engine,
        progress=lambda count: progress(count, len(clips)),
        max_bad_share=max_bad_share,
        source={"manifest": file_digest(manifest), "videos": str(videos) if videos else None, "split": split},
    )  # fmt: skip
    facts = SetFacts(
        model=model,
        fingerprint=encoder.fingerprint,
        embedding_size=encoder.embedding_size,
        dtype=encoder.dtype,
        manifest=str(manifest),
        split=split,
        clips=len(clips),
        rows=sum(receipt["rows"] for receipt in receipts),
        sampling=encoder.sampling,
        failures={name: reason for receipt in receipts for name, reason in receipt["failures"]},
        versions=versions("clipvip", "torch", "av"),
        reading_rules=min((receipt.get("reading_rules", 1) for receipt in receipts), default=READING_RULES),
        clip_duration_s=encoder.clip_duration_s,
    )
    write_facts(out, facts)
    return facts


def _texts_of(clip: Clip) -> list[dict[str, Any]]:
    by_field = {"captions": clip.captions, "subtitle": (clip.subtitle,), "caption": (clip.caption,)}
    return [
        {"field": field, "number": number, "text": text}
        for field in TEXT_FIELDS
        for number, text in enumerate(by_field[field])
        if text
    ]


@cache
def _loaded(model: str, device: str, dtype: str, threads: int | None) -> Encoder:
    """Once in each worker process."""
    if threads is not None:
        torch.set_num_threads(threads)
    return load(model, device=device, dtype=dtype)
