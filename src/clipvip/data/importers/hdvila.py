"""HD-VILA-100M: spans of videos; what is said in them comes from transcripts (`importers.subtitles`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from clipvip.data.importers.base import Importer, Notes, Options, last_part
from clipvip.data.importers.reading import Entry, iter_lines, parse_clock
from clipvip.records import Clip


class Span(NamedTuple):
    """A clip of a video, and its time in seconds."""

    clip_id: str
    start_s: float
    end_s: float


def read_hdvila(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """One clip a span: cut already (`<video_id>/<clip_id>`), or a part of `<video_id>.mp4` with `whole_videos`.

    Without subtitles: `run_import` adds them.
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


HDVILA = Importer(
    "hdvila",
    "HD-VILA-100M: jsonl of spans; --transcripts FOLDER of <video_id>.vtt, .srt or .json becomes `subtitle`",
    "JSONL...",
    read_hdvila,
    options=frozenset(("transcripts", "whole_videos")),
    spellings=last_part,
)
