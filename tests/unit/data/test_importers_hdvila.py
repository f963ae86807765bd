"""HD-VILA-100M: spans, and transcripts aligned to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipvip.data.importers import Options
from clipvip.data.importers.transcripts import read_transcript
from clipvip.errors import ManifestError
from helpers_import import imported, touch, write

VIDEO = {
    "video_id": "QMi8x8o55Ns",
    "url": "https://www.youtube.com/watch?v=QMi8x8o55Ns",
    "clip": [
        {"clip_id": "QMi8x8o55Ns.1.mp4", "span": ["00:00:17.759", "00:00:23.279"]},
        {"clip_id": "QMi8x8o55Ns.2.mp4", "span": ["00:00:23.279", "00:00:30.000"]},
        {"clip_id": "QMi8x8o55Ns.3.mp4", "span": ["01:00:00.000", "01:00:05.000"]},
    ],
}
SRT = """1
00:00:17,000 --> 00:00:20,000
{\\an8}<i>the first</i>
two lines

2
00:00:22,000 --> 00:00:24,400
across &amp; over
\x20
3
00:00:24,500 --> 00:00:26,000
42
"""
VTT = """WEBVTT
Kind: captions
Language: en

NOTE not said
by anyone

00:17.000 --> 00:20.000 align:start position:0%
<v Bob>the first
two lines

name of a cue
00:22.000 --> 00:24.400
across &amp; over

STYLE
::cue { color: red }

00:00:24.500 --> 00:00:26.000
42
"""
ROLLING = """WEBVTT

00:00:18.000 --> 00:00:24.400 align:start position:0%
\x20
one<00:00:19.000><c> two</c><00:00:22.500><c> three</c>

00:00:24.400 --> 00:00:24.410 align:start position:0%
one two three
\x20

00:00:24.410 --> 00:00:26.000 align:start position:0%
one two three
four<00:00:25.000><c> five</c>
"""
WORDS = [
    {"word": " the", "start": 18.0, "end": 18.2},
    {"word": "first", "start": 18.2, "end": 18.5},
    {"word": "over", "start": 23.2, "end": 23.4},
]


def spans(path: Path) -> list[str]:
    transcript = read_transcript(path)
    return [transcript.said(17.759, 23.279), transcript.said(23.279, 30.0)]


@pytest.mark.parametrize(("name", "text"), [("a.srt", SRT), ("a.vtt", VTT), ("crlf.srt", SRT.replace("\n", "\r\n"))])
def test_cues_belong_to_the_span_of_their_midpoint(tmp_path: Path, name: str, text: str) -> None:
    """Catches cues in two spans or in none, markup and notes that are "said", cue numbers taken for text."""
    (tmp_path / name).write_bytes(text.encode())
    assert spans(tmp_path / name) == ["the first two lines across & over", "42"]


def test_rolling_captions_are_said_once_word_by_word(tmp_path: Path) -> None:
    """Catches automatic captions, where every line is shown three times, tripled in the subtitle."""
    assert spans(write(tmp_path / "a.vtt", ROLLING)) == ["one two", "three four five"]


@pytest.mark.parametrize(
    "content",
    [
        WORDS,
        {"words": WORDS},
        {"language": "en", "segments": [{"start": 18, "end": 24, "text": "not this", "words": WORDS}]},
        [{"text": "the first", "start": "00:00:18.0", "end": 19}, {"text": "over", "start_s": 23.28, "end_s": 24}],
    ],
)
def test_json_of_timed_words(tmp_path: Path, content: Any) -> None:
    """Catches a shape of JSON that gives other text than the same words in another shape."""
    assert spans(write(tmp_path / "a.json", content)) == ["the first", "over"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.srt", "<html>no such video</html>", "line 1: expected a cue"),
        ("a.srt", "1\n00:00:17,000 --> soon\nx\n", "line 2: field 'time' is malformed"),
        ("a.vtt", "WEBVTT\n\n00:09.000 --> 00:08.000\nx\n", "line 3: field 'time' is malformed"),
        ("a.json", [{"word": "x", "start": 1}], r"'\$\[0\].end' is missing"),
        ("a.json", {"words": [{"word": "x", "start": 2, "end": 1}]}, r"'\$.words\[0\].end' \(1.0\) lies before"),
        ("a.json", [{"word": 3, "start": 1, "end": 2}], r"'\$\[0\].word' must be a string, got 3"),
        ("a.json", {"text": "x"}, r"'\$.words' \(or '\$.segments'\) is missing"),
        ("a.json", "[", "not JSON"),
    ],
)
def test_malformed_transcripts(tmp_path: Path, name: str, content: Any, message: str) -> None:
    """Catches a damaged transcript that passes as silence."""
    with pytest.raises(ManifestError, match=message) as caught:
        read_transcript(write(tmp_path / name, content))
    assert name in str(caught.value)
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match=name):
        read_transcript(tmp_path / name)


def test_hdvila_cut_clips_and_whole_videos(tmp_path: Path) -> None:
    """Catches spans used twice on clips that are cut already, and videos without a transcript that stop everything."""
    other = {"video_id": "x", "url": "u", "clip": [{"clip_id": "x.0.mp4", "span": ["00:00:01.000", "00:00:02.500"]}]}
    source = write(tmp_path / "hdvila_part0.jsonl", [VIDEO, other], lines=True)
    transcripts = tmp_path / "transcripts"
    write(transcripts / "QMi8x8o55Ns.de.vtt", VTT.replace("first", "erste"))
    write(transcripts / "QMi8x8o55Ns.en.vtt", VTT)
    rows, report = imported("hdvila", source, options=Options(transcripts=transcripts))
    assert rows[0] == {
        "clip_id": "QMi8x8o55Ns.1.mp4",
        "video": "QMi8x8o55Ns/QMi8x8o55Ns.1.mp4",
        "subtitle": "the first two lines across & over",
        "url": "https://www.youtube.com/watch?v=QMi8x8o55Ns",
        "span_s": [17.759, 23.279],
    }
    assert [row.get("subtitle") for row in rows[1:]] == ["42", None, None]
    assert (report.clips, report.subtitles, report.without_text) == (4, 2, 2)
    assert report.notes == {"clips are of videos without a transcript": 1}

    videos = touch(tmp_path / "v", "QMi8x8o55Ns.webm")
    rows, report = imported("hdvila", source, options=Options(whole_videos=True), videos=videos)
    assert (rows[0]["video"], rows[0]["start_s"], rows[0]["end_s"]) == ("v/QMi8x8o55Ns.webm", 17.759, 23.279)
    assert "span_s" not in rows[0]
    assert (report.found, report.missing) == (3, 1)
