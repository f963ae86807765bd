"""A manifest to one with auxiliary captions, as a job that can be killed at any moment (`clipvip.jobs`)."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from clipvip.captioning.captioner import CaptionerSettings
from clipvip.captioning.task import Asked, CaptionTask, Line
from clipvip.data import iter_json_lines, iter_manifest, validate_manifest, write_manifest
from clipvip.errors import ClipVipError, ManifestError, UsageError
from clipvip.files import file_digest, replace_text
from clipvip.jobs import Engine, local, run_job
from clipvip.records import Clip

PART_SIZE = 256
MODEL, REVISION = "caption_model", "caption_revision"
"""Keys that say where a caption is from."""


@dataclass(frozen=True, slots=True)
class CaptionFacts:
    """What was done. clips: of the manifest, or of its split; kept: had a caption already.

    failures: reasons by clip_id of those that are left without a caption.
    """

    clips: int
    captioned: int
    kept: int
    model: str
    failures: dict[str, str]


def caption_manifest(
    path: Path | str,
    out: Path | str,
    captioner: CaptionerSettings,
    *,
    videos: Path | str | None = None,
    split: str | None = None,
    overwrite: bool = False,
    part_size: int = PART_SIZE,
    workers: int = 1,
    engine: Engine = local,
    max_bad_share: float | None = None,
    progress: Callable[[int, int], None] = lambda count, total: None,
) -> CaptionFacts:
    """Write the manifest again, with a `caption` of each clip's middle frame (or image), and its model and revision.

    Clips that have a caption keep it, unless `overwrite`. Those that cannot be decoded or described are left without
    one and listed beside `out` (see `bad_list`), {"clip_id", "reason"} a line. split: only its clips are captioned;
    the others are copied. Killed and called again, it goes on in `work_folder(out)`, which stays there.
    progress: is told how many clips more are done, and of how many; from several threads. engine, workers: see
    `jobs.run_job`.
    Raises: UsageError for impossible arguments; ManifestError; ClipVipError if more than `max_bad_share` of the clips
    to be captioned are bad, or all are; what the captioner raises.
    """
    path, out = Path(path), Path(out)
    work = work_folder(out)
    _check_arguments(path, out)
    total = validate_manifest(path, split=split)
    source = {"manifest": path.name, "sha256": file_digest(path)}

    def wanted(clip: Clip) -> bool:
        return (split is None or clip.split == split) and (overwrite or not clip.caption)

    def clips() -> Iterator[Clip]:
        return iter_manifest(path, videos=videos, unique=False)

    todo = sum(1 for clip in clips() if wanted(clip))
    task = CaptionTask(captioner, os.path.abspath(path.parent if videos is None else videos), split, overwrite)
    receipts = run_job(
        task, _asked((clip for clip in clips() if wanted(clip)), task, work, part_size), work, source=source,
        part_size=part_size, workers=workers, engine=engine, progress=lambda count: progress(count, todo),
        max_bad_share=max_bad_share,
    )  # fmt: skip
    if file_digest(path) != source["sha256"]:
        raise ManifestError(f"{path}: was changed while it was captioned; delete {work} and caption it again")
    failures = {clip_id: reason for receipt in receipts for clip_id, reason in receipt["failures"]}
    _write_failures(failures, bad_list(out))
    if todo and len(failures) == todo:
        example = ": ".join(next(iter(failures.items())))
        raise ClipVipError(f"{path}: not one of {todo} clips could be captioned; the first is {example}")
    lines = (line for receipt in receipts for _, line in iter_json_lines(work / receipt["file"]))

    def captioned() -> Iterator[Clip]:
        for clip in clips():
            if not wanted(clip):
                yield clip
            elif clip.clip_id in failures:
                yield _bare(clip)
            else:
                line: Line = next(lines, {})
                if line.get("clip_id") != clip.clip_id:
                    raise ClipVipError(f"{work}: nothing about {clip.clip_id!r}; delete it and begin again")
                about = {MODEL: captioner.name, REVISION: line["revision"]}
                yield replace(clip, caption=line["caption"], extra={**clip.extra, **about})

    write_manifest(out, captioned(), videos=videos)
    return CaptionFacts(total, todo - len(failures), total - todo, captioner.name, failures)


def work_folder(out: Path) -> Path:
    """Of finished parts, beside the manifest that is made of them."""
    return out.with_name(out.name + ".parts")


def bad_list(out: Path) -> Path:
    """What could not be captioned, if there is anything."""
    return out.with_name(out.name + ".bad.jsonl")


def _check_arguments(path: Path, out: Path) -> None:
    if out.is_dir() or not out.parent.is_dir():
        what = "is a folder; name a file" if out.is_dir() else f"there is no folder {out.parent}"
        raise UsageError(f"--out {out}: {what}")
    if out.exists() and path.exists() and out.samefile(path):
        raise UsageError(f"--out {out} is the manifest itself; name another file, and move it there when you like it")


def _asked(clips: Iterator[Clip], task: CaptionTask, work: Path, part_size: int) -> Iterator[Asked]:
    """Clips without their texts, which need not travel; with the lines of parts that have to be done again because of
    others.
    """
    for number in itertools.count():
        part = list(itertools.islice(clips, part_size))
        if not part:
            return
        lines: dict[str, Line] = {}
        with suppress(ManifestError):  # not there yet, or damaged
            file = work / f"{task.name}-{number:06d}{task.suffix}"
            lines = {line["clip_id"]: line for _, line in iter_json_lines(file)}
        for clip in part:
            # absolute: a worker of a cluster has another working directory
            video, image = (path and Path(os.path.abspath(path)) for path in (clip.video, clip.image))
            bare = Clip(clip.clip_id, video=video, image=image, start_s=clip.start_s, end_s=clip.end_s)
            yield Asked(bare, lines.get(clip.clip_id))


def _bare(clip: Clip) -> Clip:
    """Without the caption that another model may have given it."""
    return replace(
        clip, caption=None, extra={key: value for key, value in clip.extra.items() if key not in (MODEL, REVISION)}
    )


def _write_failures(failures: dict[str, str], path: Path) -> None:
    if failures:
        rows = ({"clip_id": clip_id, "reason": reason} for clip_id, reason in failures.items())
        replace_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.unlink(missing_ok=True)
