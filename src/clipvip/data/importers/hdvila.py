"""HD-VILA-100M: spans of videos; what is said in them comes from transcripts and is aligned here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from clipvip.data.importers.base import Importer, Notes, Options
from clipvip.data.importers.reading import Entry, iter_lines
from clipvip.data.importers.times import parse_clock
from clipvip.data.importers.transcripts import find_transcript, read_transcript
from clipvip.errors import ManifestError
from clipvip.records import Clip


def read_hdvila(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """One clip a span: cut already (`<video_id>/<clip_id>`), or a part of `<video_id>.mp4` with `whole_videos`."""
    names = _by_video(options.transcripts) if options.transcripts else {}
    for source in sources:
        for entry in iter_lines(source):
            video_id = entry.text("video_id")
            transcript = None
            if options.transcripts:
                found = find_transcript(options.transcripts, video_id, names.get(video_id, ()))
                transcript = read_transcript(found) if found else None
            url = {"url": entry.value["url"]} if entry.value.get("url") else {}
            for clip in entry.entries("clip"):
                start_s, end_s = _span(clip)
                clip_id = clip.text("clip_id")
                if options.transcripts and transcript is None:
                    notes.add("clips are of videos without a transcript")
                whole = options.whole_videos
                yield Clip(
                    clip_id,
                    video=Path(f"{video_id}.mp4") if whole else Path(video_id, clip_id),
                    subtitle=transcript.said(start_s, end_s) if transcript else None,
                    start_s=start_s if whole else None,
                    end_s=end_s if whole else None,
                    extra=url if whole else url | {"span_s": [start_s, end_s]},
                )


def _span(clip: Entry) -> tuple[float, float]:
    span = clip.get("span", list)
    times = [parse_clock(time) if isinstance(time, str) else None for time in span]
    if len(times) != 2 or times[0] is None or times[1] is None:
        raise clip.error("span", f'must be two times like "00:01:02.345", got {span!r:.60}')
    if times[1] <= times[0]:
        raise clip.error("span", f"ends ({times[1]:g} s) before it has begun ({times[0]:g} s)")
    return times[0], times[1]


def _by_video(folder: Path) -> dict[str, list[str]]:
    """The names of a folder's files by what stands before their first dot (ids of videos have none)."""
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder of transcripts")
    names: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        names.setdefault(name.partition(".")[0], []).append(name)
    return names


def _flat(path: str) -> Iterable[str]:
    return (path.rpartition("/")[2],)


HDVILA = Importer(
    "hdvila",
    "HD-VILA-100M: jsonl of spans; --transcripts FOLDER of <video_id>.vtt, .srt or .json becomes `subtitle`",
    "JSONL...",
    read_hdvila,
    options=frozenset(("transcripts", "whole_videos")),
    spellings=_flat,
)
