"""A manifest to a folder of shards, as a job that can be killed at any moment (`clipvip.jobs`): each part is a shard.

N clips.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipvip.data.clip_source import TEXTS
from clipvip.data.manifest import iter_manifest, validate_manifest
from clipvip.data.shards.layout import BAD, FACTS, FORMAT, INDEX, VERSION
from clipvip.data.shards.task import Numbered, ShardTask, unpack
from clipvip.errors import ClipVipError, ManifestError, UsageError, VideoDecodeError
from clipvip.files import file_digest, replace_text, replacing
from clipvip.jobs import Receipt, run_job


def write_shards(
    path: Path | str,
    out: Path | str,
    *,
    videos: Path | str | None = None,
    split: str | None = None,
    media: Literal["video", "frames"] = "video",
    fps: float | None = None,
    short_side: int | None = None,
    clips_per_shard: int = 1000,
    workers: int = 2,
    on_decode_error: Literal["skip", "raise"] = "skip",
    max_bad_share: float = 0.05,
    progress: Callable[[int, int], None] = lambda count, total: None,
) -> dict[str, Any]:
    """Write the clips of a manifest, or of one split, as shards into the folder `out`; see `ShardTask`.

    progress: is told how many clips more are done, and of how many there are; from several threads. Killed and called
    again, it goes on. What is made depends on the arguments and files alone.

    `out` gets the shards, then bad_clips.jsonl ({clip_id, reason}), index.npy (int64 [N, 3]: number of the shard,
    offset and length in bytes of all members of a clip) and, last of all, shards.json. Returns: the contents of that.
    Raises: UsageError for impossible arguments or a folder of other shards; ManifestError; ClipVipError if too many
    clips are bad; VideoDecodeError for the first bad one with on_decode_error="raise".
    """
    path, out = Path(path), Path(out)
    _check_arguments(out, media, fps, short_side, clips_per_shard, workers, on_decode_error, max_bad_share)
    total = validate_manifest(path, split=split)
    source = {"manifest": path.name, "sha256": file_digest(path)}
    task = ShardTask(
        os.fspath(path.parent if videos is None else videos),
        media=media,
        fps=fps,
        short_side=short_side,
        on_decode_error=on_decode_error,
        split=split,
    )
    clips = iter_manifest(path, videos=videos, split=split, unique=False)
    receipts = run_job(
        task,
        (Numbered(number, clip) for number, clip in enumerate(clips)),
        out,
        source=source,
        part_size=clips_per_shard,
        workers=workers,
        progress=lambda count: progress(count, total),
        max_bad_share=max_bad_share if on_decode_error == "skip" else None,
    )
    if file_digest(path) != source["sha256"]:
        raise ManifestError(f"{path}: was changed while its shards were written; delete {out} and write them again")
    bad = _write_failures(receipts, out / BAD)
    if bad and on_decode_error == "raise":  # left out by an earlier run, or what took a worker down
        raise VideoDecodeError(f"{out / BAD}: {bad} clips are bad; --on-decode-error skip does without them")
    if bad == total:
        raise ClipVipError(f"{path}: not one of {total} clips could be read; see {out / BAD}")
    _write_index(receipts, out / INDEX)
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "settings": {**task.look(), "split": split, "clips_per_shard": clips_per_shard},
        "source": source,
        "clips": sum(receipt["clips"] for receipt in receipts),
        "bytes": sum(receipt["bytes"] for receipt in receipts),
        "bad_clips": bad,
        "texts": {kind: sum(receipt["texts"].get(kind, 0) for receipt in receipts) for kind in TEXTS},
        "index_sha256": file_digest(out / INDEX),
        "shards": [
            {"name": receipt["file"], **{key: receipt[key] for key in ("clips", "bytes", "sha256")}}
            for receipt in receipts
        ],
    }
    replace_text(out / FACTS, json.dumps(facts, indent=1) + "\n")
    return facts


def _check_arguments(
    out: Path,
    media: str,
    fps: float | None,
    short_side: int | None,
    clips_per_shard: int,
    workers: int,
    on_decode_error: str,
    max_bad_share: float,
) -> None:
    if media not in ("video", "frames"):
        raise UsageError(f"--as {media}: choose video or frames")
    if fps is not None and not 0 < fps <= 1000:
        raise UsageError(f"--fps {fps:g}: must be more than 0 and at most 1000")
    if short_side is not None and short_side < 2:
        raise UsageError(f"--short-side {short_side}: must be at least 2 pixels")
    for option, value in (("--clips-per-shard", clips_per_shard), ("--workers", workers)):
        if value < 1:
            raise UsageError(f"{option} {value}: must be at least 1")
    if on_decode_error not in ("skip", "raise"):
        raise UsageError(f"--on-decode-error {on_decode_error}: choose skip or raise")
    if not 0 <= max_bad_share <= 1:
        raise UsageError(f"--max-bad-share {max_bad_share:g}: must lie between 0 and 1")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; name a folder")


def _write_failures(receipts: Sequence[Receipt], path: Path) -> int:
    failures = [failure for receipt in receipts for failure in receipt["failures"]]
    lines = (json.dumps({"clip_id": clip_id, "reason": reason}) + "\n" for clip_id, reason in failures)
    replace_text(path, "".join(lines))
    return len(failures)


def _write_index(receipts: Sequence[Receipt], path: Path) -> None:
    total = sum(receipt["clips"] for receipt in receipts)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (total, 3)})
        for receipt in receipts:
            lengths = unpack(receipt["lengths"])
            spans = np.stack([np.full_like(lengths, receipt["part"]), np.cumsum(lengths) - lengths, lengths], axis=1)
            file.write(spans.astype("<i8").tobytes())
