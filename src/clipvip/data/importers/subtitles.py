"""What is said in the clips of HD-VILA, as a job (`clipvip.jobs`): millions of transcripts take hours to read.

The items are the lines of the sources; the parts hold one JSON line a clip, {clip_id, subtitle}, in the sources' order.
A subtitle is null where the video has no transcript, "" where nothing is said.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from clipvip.data.importers.base import Notes
from clipvip.data.importers.hdvila import spans_of
from clipvip.data.importers.reading import iter_lines, line_entry
from clipvip.data.importers.transcripts import TranscriptNames, read_transcript
from clipvip.data.manifest import iter_json_lines, iter_raw_lines
from clipvip.errors import ClipVipError, ManifestError
from clipvip.files import file_digest
from clipvip.jobs import Beat, Engine, Receipt, local, run_job
from clipvip.records import Clip

PATIENCE_S = 300.0
"""No transcript takes so long, unless its file system does."""
WORKER_BYTES = 4 << 30
_LARGEST_PART = 500  # videos
_NUM_PARTS = 32  # of a small set: so that all workers have something to do, and a kill costs little


class Video(NamedTuple):
    """A line of a source as it stands there, and the name of its transcript."""

    source: Path
    number: int
    line: bytes
    transcript: str | None


@dataclass(slots=True)
class AlignTask:
    """Transcripts to the subtitles of clips: a JSON line for each. folder: of the transcripts."""

    folder: str
    memory_bytes: int | None = WORKER_BYTES
    name: str = "subtitles"
    suffix: str = ".jsonl"

    def settings(self) -> dict[str, Any]:
        """Where the transcripts are."""
        return {"transcripts": self.folder}

    def name_of(self, item: Video) -> str:
        """Its place and its transcript."""
        return f"{item.source}, line {item.number}: transcript {item.transcript}"

    def timeout_s(self, item: Video) -> float:
        """Long for a text file: it may lie on a slow network."""
        return PATIENCE_S

    def run(self, items: Sequence[Video], path: Path, beat: Beat) -> dict[str, Any]:
        """Write the lines of one part. Raises: ManifestError for the first malformed transcript."""
        with path.open("w", encoding="utf-8") as file:
            for source, number, line, name in items:
                transcript = None if name is None else read_transcript(Path(self.folder, name))
                for clip_id, start_s, end_s in spans_of(line_entry(source, number, line)):
                    subtitle = None if transcript is None else transcript.said(start_s, end_s)
                    file.write(json.dumps({"clip_id": clip_id, "subtitle": subtitle}) + "\n")
                beat()
        return {
            "without_transcript": sum(item.transcript is None for item in items),
            "transcripts": _digest_of_names(items),
        }


def subtitled(
    clips: Iterable[Clip],
    sources: Sequence[Path],
    transcripts: Path,
    out: Path,
    notes: Notes,
    *,
    workers: int = 1,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] = lambda count, total: None,
) -> Iterator[Clip]:
    """The clips of `sources` with their subtitles, which the job finds before this function returns.

    The job goes on in `work_folder(out)`, which stays there: transcripts that came or went since are noticed, changed
    ones are not. workers, engine: see `jobs.run_job`. progress: is told how many videos more are done, and of how many.
    Raises: ManifestError naming file and line for a malformed entry or transcript.
    """
    work = work_folder(out)
    names = TranscriptNames(transcripts)
    total = _count_videos(sources)  # all lines are checked before the work begins, not after hours of it
    source = _identity(sources)
    receipts = run_job(
        AlignTask(os.path.abspath(transcripts)),
        _videos(sources, names),
        work,
        source=source,
        part_size=min(max(total // _NUM_PARTS, 1), _LARGEST_PART),
        workers=workers,
        engine=engine or local,
        progress=lambda count: progress(count, total),
        still_holds=lambda receipt, videos: receipt["transcripts"] == _digest_of_names(videos),
    )
    if _identity(sources) != source:
        raise ManifestError(f"{', '.join(map(str, sources))}: changed while transcripts were aligned; delete {work}")
    if failures := [failure for receipt in receipts for failure in receipt["failures"]]:
        raise ManifestError(f"{': '.join(failures[0])}; mend or remove it; the same command then goes on")
    return _joined(clips, work, receipts, notes)


def work_folder(out: Path) -> Path:
    """Of finished parts, beside the manifest that is made of them."""
    return out.with_name(out.name + ".parts")


def _count_videos(sources: Sequence[Path]) -> int:
    count = 0
    for source in sources:
        for entry in iter_lines(source):
            entry.text("video_id")
            for _ in spans_of(entry):
                pass
            count += 1
    return count


def _identity(sources: Sequence[Path]) -> dict[str, Any]:
    return {"files": [source.name for source in sources], "sha256": [file_digest(source) for source in sources]}


def _videos(sources: Sequence[Path], names: TranscriptNames) -> Iterator[Video]:
    for source in sources:
        for number, line in iter_raw_lines(source):
            video_id = line_entry(source, number, line).text("video_id")
            yield Video(source, number, line, names.of(video_id))


def _digest_of_names(videos: Iterable[Video]) -> str:
    names = "\0".join(video.transcript or "" for video in videos)
    return hashlib.blake2b(os.fsencode(names), digest_size=8).hexdigest()


def _joined(clips: Iterable[Clip], work: Path, receipts: Sequence[Receipt], notes: Notes) -> Iterator[Clip]:
    lines = (line for receipt in receipts for _, line in iter_json_lines(work / receipt["file"]))
    for clip in clips:
        line = next(lines, {})
        if line.get("clip_id") != clip.clip_id:
            raise ClipVipError(f"{work}: nothing about {clip.clip_id!r}; delete it and begin again")
        if line["subtitle"] is None:
            notes.add("clips are of videos without a transcript")
        yield replace(clip, subtitle=line["subtitle"])
