"""What is said and when: SubRip (.srt), WebVTT (.vtt) and JSON of timed words or segments, aligned to spans of a video.

A cue or word belongs to the span that its midpoint lies in (start <= midpoint < end): of spans side by side exactly
one. A cue that carries a time for each word (as automatic captions do) is taken word by word.
"""

from __future__ import annotations

import html
import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipvip.data.importers.reading import Entry, as_entry, parse_clock, read_json
from clipvip.errors import ManifestError

EXTENSIONS = (".vtt", ".srt", ".json")
_ARROW = re.compile(r"\s*(\S+)\s+-->\s+(\S+)(?:\s.*)?")
_WORD_TIME = re.compile(r"<((?:\d+:)?\d{1,2}:\d{2}[.,]\d+)>", re.ASCII)
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")  # <i>, <c.colour>, <v Name>, {\an8}
_NOTES = ("NOTE", "STYLE", "REGION")


@dataclass(frozen=True, slots=True)
class Cue:
    """A text and its time in seconds."""

    start_s: float
    end_s: float
    text: str


class Transcript:
    """The cues of one video."""

    def __init__(self, cues: Sequence[Cue]):
        self._cues = sorted(cues, key=lambda cue: cue.start_s + cue.end_s)
        self._midpoints = [(cue.start_s + cue.end_s) / 2 for cue in self._cues]

    def said(self, start_s: float, end_s: float) -> str:
        """What is said in a span, "" if nothing is."""
        first, last = (bisect_left(self._midpoints, time) for time in (start_s, end_s))
        return " ".join(cue.text for cue in self._cues[first:last])


def read_transcript(path: Path) -> Transcript:
    """A transcript file, its kind told by the extension. Raises: ManifestError naming the line or field."""
    if path.suffix == ".json":
        return Transcript(list(_json_cues(path)))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text: {error}") from None
    return Transcript(list(_text_cues(path, text)))


class TranscriptNames:
    """The names of all transcripts in a folder: about 80 bytes each. Raises: ManifestError if there is no folder."""

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise ManifestError(f"{folder}: no such folder of transcripts")
        self._names = sorted(name for name in os.listdir(folder) if name.endswith(EXTENSIONS))

    def of(self, video_id: str) -> str | None:
        """The transcript of a video, if it has one: `<id>.vtt`, else English, else the first."""

        def rank(name: str) -> tuple[int, str]:
            language = name.removeprefix(video_id).rpartition(".")[0]
            return (0 if not language else 1 if language == ".en" else 2 if language.startswith(".en") else 3, name)

        first, last = (bisect_left(self._names, video_id + mark) for mark in "./")  # "/" comes right after "."
        return min(self._names[first:last], key=rank, default=None)


def _text_cues(path: Path, text: str) -> Iterator[Cue]:
    """SubRip and WebVTT: lines with an arrow between two times, and the text up to the next."""
    lines = text.split("\n")
    arrows = [i for i, line in enumerate(lines) if "-->" in line]
    if not arrows and text.strip() and not text.startswith("WEBVTT"):
        raise ManifestError(f"{path}, line 1: expected a cue (START --> END), got {text.strip()[:60]!r}")
    shown: set[str] = set()  # the lines of the cue before: rolling captions show them once more
    for i, following in zip(arrows, [*arrows[1:], None], strict=True):
        arrow = _ARROW.fullmatch(lines[i])
        start_s, end_s = (parse_clock(time) for time in arrow.groups()) if arrow else (None, None)
        if start_s is None or end_s is None or end_s < start_s:
            raise ManifestError(f"{path}, line {i + 1}: field 'time' is malformed: {lines[i][:60]!r}")
        body = _body(lines[i + 1 : following], last=following is None)
        new = [line for line in body if _plain(line) not in shown]
        shown = {_plain(line) for line in body}
        yield from _words(start_s, end_s, " ".join(new))


def _body(lines: list[str], *, last: bool) -> list[str]:
    """The lines of a cue's text, out of all between two arrows: less the next cue's name, and less notes."""
    name = "" if last or not lines else lines[-1].strip()
    if name.isdigit() or (name and len(lines) > 1 and not lines[-2].strip()):
        lines = lines[:-1]
    body, note = [], False
    for before, line in zip(["x", *lines], lines, strict=False):
        if not before:
            note = line.startswith(_NOTES)
        if line.strip() and not note:
            body.append(line)
    return body


def _words(start_s: float, end_s: float, text: str) -> Iterator[Cue]:
    """A cue whole, or cut at the times that stand in its text."""
    pieces = _WORD_TIME.split(text)
    times = [start_s, *(parse_clock(time) or 0.0 for time in pieces[1::2]), end_s]
    for i, piece in enumerate(pieces[::2]):
        if plain := _plain(piece):
            yield Cue(times[i], max(times[i], times[i + 1]), plain)


def _plain(text: str) -> str:
    return " ".join(html.unescape(_MARKUP.sub("", text)).split())


def _json_cues(path: Path) -> Iterator[Cue]:
    """A list of timed texts, or an object that holds one as `words` or `segments` (which may hold `words` again)."""
    value = read_json(path)
    items = value
    at = "$"
    if isinstance(value, dict):
        key = next((key for key in ("words", "segments") if key in value), None)
        if key is None:
            raise ManifestError(f"{path}: field '$.words' (or '$.segments') is missing")
        items, at = value[key], f"$.{key}"
    if not isinstance(items, list):
        raise ManifestError(f"{path}: field '{at}' must be a list of timed words")
    for i, item in enumerate(items):
        entry = as_entry(item, str(path), f"{at}[{i}]")
        if entry.value.get("words"):
            for word in entry.entries("words"):
                yield from _json_cue(word)
        else:
            yield from _json_cue(entry)


def _json_cue(entry: Entry) -> Iterator[Cue]:
    text = next((key for key in ("word", "text") if key in entry.value), "word")
    start_s, end_s = (
        entry.seconds(next((key for key in (name, f"{name}_s") if key in entry.value), name))
        for name in ("start", "end")
    )
    if start_s is None:
        raise entry.error("start", "is missing")
    if end_s is None:
        raise entry.error("end", "is missing")
    if end_s < start_s:
        raise entry.error("end", f"({end_s}) lies before the start ({start_s})")
    if plain := _plain(str(entry.get(text, str))):
        yield Cue(start_s, end_s, plain)
