"""Which clips of a manifest cannot be used: every one decoded, in processes that a damaged file may crash or hang.

The work is a job (`clipvip.jobs`): its parts hold one JSON line a clip, {clip_id, status, reason, frames, seconds,
digest}, with what decoding showed (ok, bad or missing). What is short or duplicated is worked out from them, so other
limits need no second decode. Memory: eight bytes a clip, and an entry for each clip that is not fine.

N clips.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.data.manifest import iter_json_lines, iter_manifest, write_manifest
from clipvip.data.repeats import as_numpy
from clipvip.errors import ClipVipError, ManifestError, UsageError
from clipvip.files import replace_text
from clipvip.jobs import Receipt, run_job
from clipvip.records import Clip
from clipvip.video import probe, read_frames, read_image, uniform_indices
from clipvip.video.container import decode_error, open_video
from clipvip.video.frames import EPSILON_S, DecodedFrame, frames_within

KINDS = ("bad", "short", "duplicated", "missing")
"""What a clip can be besides fine; one kind each, and a duplicate that is short counts as a duplicate."""
NUM_FRAMES = 12
TIMEOUT_S = 300.0
WORKER_BYTES = 4 << 30
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_LARGEST_PART = 100  # clips
_NUM_PARTS = 32  # of a small manifest: so that all workers have something to do, and a kill costs little

Line = dict[str, Any]
Report = dict[str, Any]
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class CheckTask:
    """Decode clips and say what came out: one JSON line a clip.

    num_frames: read that many uniform frames; None: decode every frame. videos, split: what else the result hangs on.
    """

    num_frames: int | None = None
    videos: str | None = None
    split: str | None = None
    item_timeout_s: float = TIMEOUT_S
    memory_bytes: int | None = WORKER_BYTES
    name: str = "check"
    suffix: str = ".jsonl"

    def settings(self) -> dict[str, Any]:
        """What the lines depend on."""
        return {
            "frames": "all" if self.num_frames is None else self.num_frames,
            "videos": self.videos,
            "split": self.split,
            "timeout_s": self.item_timeout_s,
        }

    def name_of(self, item: Clip) -> str:
        """The clip_id."""
        return item.clip_id

    def run(self, items: Sequence[Clip], path: Path, beat: Callable[[], None]) -> dict[str, Any]:
        """Write the lines of one part; a file that several of its clips are cut from is hashed once."""
        digests: dict[Path, str] = {}
        with path.open("w", encoding="utf-8") as file:
            for clip in items:
                file.write(json.dumps(self._examine(clip, digests)) + "\n")
                beat()
        return {}

    def _examine(self, clip: Clip, digests: dict[Path, str]) -> Line:
        line: Line = {"clip_id": clip.clip_id, "status": "ok", "reason": None}
        line |= {"frames": None, "seconds": None, "digest": None}
        try:
            os.stat(clip.path)
        except ValueError as error:  # half a character, a zero byte: no file is called that
            return line | {"status": "missing", "reason": f"no file can have this name ({error})"}
        except OSError as error:
            status = "missing" if error.errno in _ABSENT else "bad"
            return line | {"status": status, "reason": str(error.strerror).lower()}
        try:
            line["frames"], line["seconds"] = self._decode(clip)
            if clip.path not in digests:
                digests[clip.path] = _digest(clip.path, "blake2b")
        except ClipVipError as error:
            return line | {"status": "bad", "reason": str(error).removeprefix(f"{clip.path}: ")}
        except OSError as error:
            return line | {"status": "bad", "reason": f"cannot be read: {str(error.strerror).lower()}"}
        return line | {"digest": digests[clip.path]}

    def _decode(self, clip: Clip) -> tuple[int, float | None]:
        """Frames and seconds of a clip; a picture has no length."""
        if clip.image is not None:
            read_image(clip.image)
            return 1, None
        return _decode_all(clip) if self.num_frames is None else _decode_some(clip, self.num_frames)


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
    progress: Progress = lambda done, total: None,
) -> Report:
    """Decode the clips of a manifest, or of one split, and report those that cannot be used.

    quick: read `num_frames` uniform frames of a clip instead of every frame. short: videos of fewer than `num_frames`
    frames or `min_seconds` seconds. timeout_s: a clip that takes longer has hung the decoder. work: the folder that an
    interrupted check goes on in (default: see `default_work`); report.json there holds the report. fix: write a
    manifest without the bad, short (unless keep_short), duplicated and missing clips; clips of other splits stay.
    progress: is told how many clips are done, and of how many.

    Returns: {"manifest", "split", "quick", "num_frames", "min_seconds", "counts": {"clips", "ok", one for each kind},
    and for each of `KINDS` a list of {"clip_id", "media", "reason", "frames", "seconds"} in the manifest's order, those
    of duplicates with "of", the clip_id that stays}; with fix also "clean": {"manifest", "clips"}.
    Raises: UsageError for impossible arguments or a work folder of another check; ManifestError.
    """
    path = Path(path)
    work = default_work(path) if work is None else Path(work)
    fix = None if fix is None else Path(fix)
    _check_arguments(path, num_frames, min_seconds, timeout_s, workers, fix, keep_short)
    total = _count(path, split)
    sha256 = _digest(path, "sha256")
    task = CheckTask(
        num_frames=num_frames if quick else None,
        videos=None if videos is None else os.path.abspath(videos),
        split=split,
        item_timeout_s=timeout_s,
    )
    receipts = run_job(
        task,
        (_without_texts(clip) for clip in iter_manifest(path, videos=videos, split=split, unique=False)),
        work,
        source={"manifest": path.name, "sha256": sha256},
        part_size=min(max(total // _NUM_PARTS, 1), _LARGEST_PART),
        workers=workers,
        progress=_counted(progress, total),
    )
    if _digest(path, "sha256") != sha256 or sum(receipt["items"] for receipt in receipts) != total:
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


def _count(path: Path, split: str | None) -> int:
    """The clips to check; every line of the manifest is validated."""
    splits = Counter(clip.split for clip in iter_manifest(path))
    total = splits.total() if split is None else splits[split]
    if not total:
        if split is None:
            raise ManifestError(f"{path}: no clips")
        known = ", ".join(sorted(name for name in splits if name is not None))
        raise ManifestError(f"{path}: no clips of split {split!r} (splits here: {known or 'none'})")
    return total


def _without_texts(clip: Clip) -> Clip:
    """What has to travel to a worker process."""
    return Clip(clip.clip_id, video=clip.video, image=clip.image, start_s=clip.start_s, end_s=clip.end_s)


def _counted(progress: Progress, total: int) -> Callable[[int], None]:
    """Increments, from several threads, to a running count."""
    done, lock = 0, threading.Lock()

    def more(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            progress(done, total)

    progress(0, total)
    return more


def _decode_all(clip: Clip) -> tuple[int, float]:
    """Frames and seconds of a clip, every frame of it decoded.

    Raises: VideoDecodeError, also where `read_frames` could not return what was decoded: frames of several sizes.
    """
    start_s, end_s = clip.time_range or (0.0, math.inf)
    if end_s - start_s <= EPSILON_S:
        raise decode_error(str(clip.path), f"the range {start_s} to {end_s} s is empty", "correct it or leave it out")
    num_frames, size, first, last = 0, (0, 0), None, None
    with open_video(clip.path, threads=1) as video:
        for frame in frames_within(video, clip.time_range):
            if num_frames == 0:
                size, first = (frame.width, frame.height), frame
                DecodedFrame(frame, None).rgb()  # decoded is not enough: its pixel format may have no way to RGB
            elif size != (frame.width, frame.height):
                raise decode_error(video.name, "the frame size changes on the way")
            num_frames, last = num_frames + 1, frame
        if first is None or last is None or first.pts is None or last.pts is None:
            return num_frames, round(num_frames * video.step_s, 6)
        shown_s = float(last.duration * last.time_base) if last.duration else video.step_s
        return num_frames, round(max(float((last.pts - first.pts) * last.time_base), 0.0) + shown_s, 6)


def _decode_some(clip: Clip, num_frames: int) -> tuple[int, float]:
    """The same from `num_frames` uniform frames, the file's index and its header."""
    total = 0

    def choose(counted: int) -> np.ndarray:
        nonlocal total
        total = counted  # asked again where the header was wrong: the last answer holds
        return uniform_indices(counted, num_frames)

    read_frames(clip.path, choose, time_range=clip.time_range)
    info = probe(clip.path)
    if info.duration_s is None:
        return total, round(total / (info.fps or 25), 6)
    start_s, end_s = clip.time_range or (0.0, math.inf)
    return total, round(max(min(info.duration_s, end_s) - start_s, 0.0), 6)


def _digest(path: Path, method: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, method).hexdigest()


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
    """Why a clip is too short, or None. A picture is no short video."""
    if clip.image is not None:
        return None
    frames, seconds = line["frames"], line["seconds"]
    if frames < num_frames:
        return f"{frames} frames, fewer than {num_frames}"
    # The ends of a range seldom fall on frames: three seconds of it may hold a frame less.
    spare = 0.0 if clip.time_range is None else seconds / frames
    if min_seconds is not None and seconds + spare < min_seconds:
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
