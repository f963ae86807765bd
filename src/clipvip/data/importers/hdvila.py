"""HD-VILA-100M: spans of videos; what is said in them is aligned by a job: millions of transcripts take hours to read.

The job's items are the lines of the sources; its parts hold one JSON line per clip, {clip_id, subtitle}, in the
sources' order. A subtitle is null where the video has no transcript, "" where nothing is said.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from clipvip.data.importers.base import Importer, Notes, Options, last_part
from clipvip.data.importers.reading import Entry, iter_lines, line_entry, parse_clock
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


class Span(NamedTuple):
    """A clip of a video, and its time in seconds."""

    clip_id: str
    start_s: float
    end_s: float


def read_hdvila(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """One clip a span: cut already (`<video_id>/<clip_id>`), or a part of `<video_id>.mp4` with `whole_videos`.

    Without subtitles: `add_subtitles` finds them.
    """
    whole = options.whole_videos
    for source in sources:
        for entry in iter_lines(source):
            video_id = entry.text("video_id")
            url = {"url": entry.value["url"]} if entry.value.get("url") else {}
            for clip_id, start_s, end_s in spans_of(entry):
                yield Clip(
                    clip_id,
                    video=Path(f"{video_id}.mp4") if whole else Path(video_id, clip_id),
                    start_s=start_s if whole else None,
                    end_s=end_s if whole else None,
                    extra=url if whole else url | {"span_s": [start_s, end_s]},
                )


def spans_of(video: Entry) -> Iterator[Span]:
    """The clips of one line. Raises: ManifestError naming the field that is malformed."""
    for clip in video.entries("clip"):
        start_s, end_s = _times(clip)
        yield Span(clip.text("clip_id"), start_s, end_s)


def _times(clip: Entry) -> tuple[float, float]:
    span = clip.get("span", list)
    times = [parse_clock(time) if isinstance(time, str) else None for time in span]
    if len(times) != 2 or times[0] is None or times[1] is None:
        raise clip.error("span", f'must be two times like "00:01:02.345", got {span!r:.60}')
    if times[1] <= times[0]:
        raise clip.error("span", f"ends ({times[1]:g} s) before it has begun ({times[0]:g} s)")
    return times[0], times[1]


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


def add_subtitles(
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
        raise ManifestError(f"{': '.join(failures[0])}; repair or remove it, and run the same command again")
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


HDVILA = Importer(
    "hdvila",
    "HD-VILA-100M: jsonl of spans; --transcripts FOLDER of <video_id>.vtt, .srt or .json becomes `subtitle`",
    "JSONL...",
    read_hdvila,
    options=frozenset(("transcripts", "whole_videos")),
    spellings=last_part,
)
