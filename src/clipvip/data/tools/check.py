"""Which clips of a manifest cannot be used: every one decoded, in processes that a damaged file may crash or hang.

The work is a job (`clipvip.jobs`): its parts hold one JSON line a clip, {clip_id, status, reason, frames, seconds,
digest}, with what decoding showed (ok, bad or missing). What is short or duplicated is worked out from them, so other
limits need no second decode. Memory: eight bytes a clip, and an entry for each clip that is not fine.

N clips.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.data.manifest import iter_json_lines, iter_manifest, validate_manifest, write_manifest
from clipvip.data.tools._repeats import as_numpy
from clipvip.data.tools.check_task import TIMEOUT_S, CheckTask, Line
from clipvip.errors import ClipVipError, ManifestError, UsageError
from clipvip.files import file_digest, replace_text
from clipvip.jobs import Receipt, run_job
from clipvip.records import Clip

KINDS = ("bad", "short", "duplicated", "missing")
"""What a clip can be besides fine; one kind each, and a duplicate that is short counts as a duplicate."""
NUM_FRAMES = 12
_LARGEST_PART = 100  # clips
_NUM_PARTS = 32  # of a small manifest: so that all workers have something to do, and a kill costs little

Report = dict[str, Any]


def check_manifest(
    path: Path | str,
    *,
    videos: Path | str | None = None,
    split: str | None = None,
    quick: bool = False,
    num_frames: int = NUM_FRAMES,
    min_seconds: float | None = None,
    timeout_s: float = TIMEOUT_S,
    work: Path | str | None = None,
    workers: int = 2,
    fix: Path | str | None = None,
    keep_short: bool = False,
    progress: Callable[[int, int], None] = lambda count, total: None,
) -> Report:
    """Decode the clips of a manifest, or of one split, and report those that cannot be used.

    quick: read `num_frames` uniform frames of a clip instead of every frame. short: videos of fewer than `num_frames`
    frames or `min_seconds` seconds. timeout_s: a decoder that is silent for longer
    (and for a second more for each 200 kB of the file) hangs. work: the folder that an
    interrupted check goes on in (default: see `default_work`); report.json there holds the report. fix: write a
    manifest without the bad, short (unless keep_short), duplicated and missing clips; clips of other splits stay.
    progress: is told how many clips more are done, and of how many there are; from several threads.

    Returns: {"manifest", "split", "quick", "num_frames", "min_seconds", "counts": {"clips", "ok", one for each kind},
    and for each of `KINDS` a list of {"clip_id", "media", "reason", "frames", "seconds"} in the manifest's order, those
    of duplicates with "of", the clip_id that stays}; with fix also "clean": {"manifest", "clips"}.
    Raises: UsageError for impossible arguments or a work folder of another check; ManifestError.
    """
    path = Path(path)
    work = default_work(path) if work is None else Path(work)
    fix = None if fix is None else Path(fix)
    _check_arguments(path, num_frames, min_seconds, timeout_s, workers, fix, keep_short)
    total = validate_manifest(path, split=split)
    sha256 = file_digest(path)
    task = CheckTask(
        num_frames=num_frames if quick else None,
        videos=os.path.abspath(path.parent if videos is None else videos),
        split=split,
        silence_s=timeout_s,
    )
    receipts = run_job(
        task,
        (_without_texts(clip) for clip in iter_manifest(path, videos=videos, split=split, unique=False)),
        work,
        source={"manifest": path.name, "sha256": sha256},
        part_size=min(max(total // _NUM_PARTS, 1), _LARGEST_PART),
        workers=workers,
        progress=lambda count: progress(count, total),
    )
    if file_digest(path) != sha256 or sum(receipt["items"] for receipt in receipts) != total:
        raise ManifestError(f"{path}: was changed while it was checked; delete {work} and check it again")

    def results() -> Iterator[tuple[Clip, Line]]:
        return _results(iter_manifest(path, videos=videos, split=split, unique=False), work, receipts)

    found = _sorted_out(results, num_frames, min_seconds)
    report: Report = {
        "manifest": str(path),
        "split": split,
        "quick": quick,
        "num_frames": num_frames,
        "min_seconds": min_seconds,
        "counts": {
            "clips": total,
            "ok": total - sum(len(entries) for entries in found.values()),
            **{kind: len(entries) for kind, entries in found.items()},
        },
        **found,
    }
    replace_text(work / "report.json", json.dumps(report, indent=1) + "\n")
    if fix is None:
        return report
    dropped = {entry["clip_id"] for kind in KINDS if kind != "short" or not keep_short for entry in found[kind]}
    return report | {"clean": {"manifest": str(fix), "clips": _write_clean(path, fix, dropped, videos)}}


def default_work(path: Path) -> Path:
    """The work folder of a manifest: beside it, `<manifest name>.check`."""
    return path.with_name(path.name + ".check")


def _check_arguments(
    path: Path,
    num_frames: int,
    min_seconds: float | None,
    timeout_s: float,
    workers: int,
    fix: Path | None,
    keep_short: bool,
) -> None:
    for option, value in (("--num-frames", num_frames), ("--workers", workers)):
        if value < 1:
            raise UsageError(f"{option} {value}: must be at least 1")
    for option, seconds in (("--min-seconds", min_seconds), ("--timeout", timeout_s)):
        if seconds is not None and not 0 < seconds < math.inf:
            raise UsageError(f"{option} {seconds:g}: must be more than 0 seconds")
    if fix is None:
        if keep_short:
            raise UsageError("--keep-short needs --fix: without it nothing is left out")
        return
    if fix.is_dir() or not fix.parent.is_dir():
        what = "is a folder; name a file" if fix.is_dir() else f"there is no folder {fix.parent}"
        raise UsageError(f"--fix {fix}: {what}")
    if fix.exists() and path.exists() and fix.samefile(path):
        raise UsageError(f"--fix {fix} is the manifest itself; name another file, and move it there when you like it")


def _without_texts(clip: Clip) -> Clip:
    """What has to travel to a worker process."""
    return Clip(clip.clip_id, video=clip.video, image=clip.image, start_s=clip.start_s, end_s=clip.end_s)


def _results(clips: Iterator[Clip], work: Path, receipts: Sequence[Receipt]) -> Iterator[tuple[Clip, Line]]:
    """Each clip with its line; those that took the worker down with them have none but stand in the receipt."""
    for receipt in receipts:
        file = work / receipt["file"]
        lines = {line["clip_id"]: line for _, line in iter_json_lines(file)}
        for clip_id, reason in receipt["failures"]:
            lines[clip_id] = {"status": "bad", "reason": reason, "frames": None, "seconds": None}
        for clip in itertools.islice(clips, receipt["items"]):
            if clip.clip_id not in lines:
                raise ClipVipError(f"{file}: nothing about {clip.clip_id!r}; delete {work} and check again")
            yield clip, lines[clip.clip_id]


def _sorted_out(
    results: Callable[[], Iterator[tuple[Clip, Line]]], num_frames: int, min_seconds: float | None
) -> dict[str, list[dict[str, Any]]]:
    """The entries of the report by kind. Reads the results twice: first only to see which contents repeat."""
    keys = array("q", (hash(_content(clip, line)) for clip, line in results() if line["status"] == "ok"))
    different, counts = np.unique(as_numpy(keys), return_counts=True)
    repeated = set(different[counts > 1].tolist())
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    first_of: dict[tuple[Any, ...], str] = {}
    for clip, line in results():
        kind, reason, of = line["status"], line["reason"], clip.clip_id
        if kind == "ok":
            content = _content(clip, line)
            if hash(content) in repeated:
                of = first_of.setdefault(content, clip.clip_id)
            if of != clip.clip_id:
                kind, reason = "duplicated", f"same content as {of}"
            elif (shortage := _shortage(clip, line, num_frames, min_seconds)) is not None:
                kind, reason = "short", shortage
        if kind != "ok":
            entry = {"clip_id": clip.clip_id, "media": str(clip.path), "reason": reason}
            entry |= {"frames": line["frames"], "seconds": line["seconds"]}
            found[kind].append(entry | ({"of": of} if kind == "duplicated" else {}))
    return found


def _content(clip: Clip, line: Line) -> tuple[Any, ...]:
    """What two clips have in common if and only if they show the same: bytes of the file and part of it."""
    if clip.image is not None:
        return (line["digest"], "image")
    return (line["digest"], clip.start_s or 0.0, clip.end_s)


def _shortage(clip: Clip, line: Line, num_frames: int, min_seconds: float | None) -> str | None:
    """Why a clip is too short, or None. A picture is no short video, and a folder of frames has no seconds."""
    if clip.image is not None:
        return None
    frames, seconds = line["frames"], line["seconds"]
    if frames < num_frames:
        return f"{frames} frames, fewer than {num_frames}"
    # The ends of a range seldom fall on frames: three seconds of it may hold a frame less.
    spare = 0.0 if clip.time_range is None else seconds / frames
    if min_seconds is not None and seconds is not None and seconds + spare < min_seconds:
        return f"{seconds:g} s, shorter than {min_seconds:g} s"
    return None


def _write_clean(path: Path, fix: Path, dropped: set[str], videos: Path | str | None) -> int:
    def kept() -> Iterator[Clip]:
        empty = True
        for clip in iter_manifest(path, videos=videos, unique=False):
            if clip.clip_id not in dropped:
                empty = False
                yield clip
        if empty:
            raise ManifestError(f"{path}: not one clip is fine; {fix} was not written")

    return write_manifest(fix, kept(), videos=videos)
