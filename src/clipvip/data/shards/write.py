"""A manifest to a folder of shards, as a job that can be killed at any moment (`clipvip.jobs`): each part is a shard.

A shard is a WebDataset tar; the same clips give the same bytes. N clips.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from clipvip.data.manifest import iter_manifest, validate_manifest
from clipvip.data.shards.layout import BAD, FACTS, FORMAT, INDEX, VERSION, Kind, to_row
from clipvip.data.shards.shrink import H264, JPEG_QUALITY, shrink_image, shrink_to_jpegs, shrink_video
from clipvip.errors import ClipVipError, InputError, ManifestError, UsageError, VideoDecodeError
from clipvip.files import file_digest, replace_text, replacing
from clipvip.jobs import Beat, Receipt, run_job, time_limit_s
from clipvip.records import TEXTS, Clip
from clipvip.video import probe, read_frames

FRAMES_FPS = 3.0
"""Of media "frames", unless told: what the paper's authors stored HD-VILA with."""
_COPY_TIMEOUT_S, _ENCODE_TIMEOUT_S = 300.0, 3600.0  # for one clip; a film at full size takes its time
_WORKER_BYTES = 8 << 30


class Numbered(NamedTuple):
    """A clip and its place in the data set, which is its key in the shard."""

    number: int
    clip: Clip


@dataclass(slots=True)
class ShardTask:
    """What becomes of clips on their way into a shard.

    root: the folder that sources are named relative to. media: videos stay videos, or become JPEG frames. fps,
    short_side: limits; a video is encoded anew if one is given or only part of it is the clip, else its file is copied.
    A file that is copied is checked by opening it and decoding its first and last frame (an image: all of it).
    on_decode_error: leave a clip out, or raise.
    """

    root: str
    media: Literal["video", "frames"] = "video"
    fps: float | None = None
    short_side: int | None = None
    on_decode_error: Literal["skip", "raise"] = "skip"
    split: str | None = None
    memory_bytes: int | None = _WORKER_BYTES
    name: str = "shard"
    suffix: str = ".tar"

    def look(self) -> dict[str, Any]:
        """What the clips look like, ready for JSON."""
        fps = FRAMES_FPS if self.media == "frames" and self.fps is None else self.fps
        encoders = {"h264": {key: H264[key] for key in ("crf", "preset")}, "jpeg_quality": JPEG_QUALITY}
        return {"as": self.media, "fps": fps, "short_side": self.short_side, **encoders}

    def settings(self) -> dict[str, Any]:
        """What the shards depend on; the folder too: with a mistyped one every clip is bad, and would stay so."""
        return {**self.look(), "split": self.split, "videos": os.path.abspath(self.root)}

    def name_of(self, item: Numbered) -> str:
        """The clip_id."""
        return item.clip.clip_id

    def timeout_s(self, item: Numbered) -> float:
        """Long for what is encoded: a film at full size takes its time."""
        copies = self.media == "video" and self.fps is None and self.short_side is None
        return time_limit_s(item.clip.path, _COPY_TIMEOUT_S if copies else _ENCODE_TIMEOUT_S)

    def run(self, items: Sequence[Numbered], path: Path, beat: Beat) -> dict[str, Any]:
        """Write one shard; the receipt has the clips' lengths and how many have each kind of text."""
        lengths: list[int] = []
        failures: list[tuple[str, str]] = []
        texts: Counter[str] = Counter()
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
            for number, clip in items:
                try:
                    row, media = self._prepared(clip)
                except (VideoDecodeError, InputError) as error:
                    if self.on_decode_error == "raise":
                        raise
                    failures.append((clip.clip_id, str(error)))
                else:
                    start = archive.offset
                    _add(archive, f"{number:09d}.json", row)
                    for extension, content in media:
                        _add(archive, f"{number:09d}{extension}", content)
                    lengths.append(archive.offset - start)
                    texts.update(kind for kind in TEXTS if getattr(clip, kind))
                beat()
        return {"failures": failures, "clips": len(lengths), "lengths": pack(lengths), "texts": dict(texts)}

    def _prepared(self, clip: Clip) -> tuple[bytes, list[tuple[str, bytes | Path]]]:
        """The clip's JSON, and its media as extensions with their contents or the file to copy."""
        kind: Kind = "image" if clip.image is not None else self.media
        cut = kind != "image" and clip.time_range is not None
        limits: Any = {"fps": self.look()["fps"], "short_side": self.short_side}
        times_s: list[float] = []
        media: list[tuple[str, bytes | Path]]
        if kind == "image":
            jpeg = shrink_image(clip.path, self.short_side)
            media = [(_extension(clip), clip.path) if jpeg is None else (".jpg", jpeg)]
        elif kind == "frames":
            jpegs, times_s = shrink_to_jpegs(clip.path, clip.time_range, **limits)
            digits = max(len(str(len(jpegs) - 1)), 3)  # so that they sort as they follow each other
            media = [(f".{i:0{digits}d}.jpg", jpeg) for i, jpeg in enumerate(jpegs)]
        elif cut or self.fps is not None or self.short_side is not None:
            media = [(".mp4", shrink_video(clip.path, clip.time_range, **limits))]
        else:
            probe(clip.path)
            read_frames(clip.path, lambda total: np.array([0, total - 1]), strict=True)
            media = [(_extension(clip), clip.path)]
        return to_row(clip, source=self._source(clip), media=kind, cut=cut, frame_times_s=times_s), media

    def _source(self, clip: Clip) -> str:
        try:
            return clip.path.relative_to(self.root).as_posix()
        except ValueError:
            return clip.path.as_posix()  # the manifest itself has it absolute


def pack(lengths: Sequence[int]) -> str:
    """Lengths of whole tar blocks as text: the receipts of 100 million clips must fit into memory at the end."""
    return base64.b64encode((np.array(lengths, np.int64) // tarfile.BLOCKSIZE).astype("<u4").tobytes()).decode()


def unpack(text: str) -> np.ndarray:
    """What was packed, int64."""
    return np.frombuffer(base64.b64decode(text), "<u4").astype(np.int64) * tarfile.BLOCKSIZE


def _add(archive: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    """A member that depends on its name and content alone: TarInfo's defaults are no owner and the year 1970."""
    info = tarfile.TarInfo(name)
    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
        info.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        archive.addfile(info, file)


def _extension(clip: Clip) -> str:
    """The file's own, unless it has none or one that stands for something else in a shard."""
    own = clip.path.suffix.lower()
    if re.fullmatch(r"\.[a-z0-9]{1,8}", own) and own not in (".json", ".txt"):
        return own
    return ".video" if clip.image is None else ".image"


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
