"""Malformed entries of every format: one error that names file, place and field, and no manifest."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from clipvip.data.importers import FORMATS, Options
from clipvip.errors import ManifestError
from helpers_import import imported, write

FIELDS = Options(fields={"video": ["path"], "captions": ["text"], "end_s": ["end"]})
IMAGE = Options(fields={"image": ["{row}.jpg"]})
SPAN = {"clip_id": "x.0.mp4", "span": ["00:00:01.000", "00:00:02.500"]}
LSMDC = "a_1\tb\tc\td\te\tA sentence.\n"

CASES: list[tuple[str, str, Any, Options | None, str]] = [
    # format, file name, content (a list of rows for .jsonl), options, message
    ("clipvip", "a.jsonl", [{"clip_id": "v", "text": "x"}, {"clip_id": "w"}], None, "line 2: field 'text' is missing"),
    ("clipvip", "a.jsonl", [{"clip_id": "v", "text": ["x", 3]}], None, r"line 1: field 'text\[1\]' must be a string"),
    ("clipvip", "a.jsonl", '{"clip_id": "v"', None, "line 1: not JSON"),
    ("clipvip-pretrain", "a.jsonl", [{"clip_id": "v.0.mp4"}], None, "line 1: field 'text' is missing"),
    ("clipvip-pretrain", "a.jsonl", [{"text": "v.0.mp4"}], None, "line 1: field 'video_id' is missing"),
    ("msrvtt", "a.json", {"videos": [{"id": 3}], "sentences": []}, None, r"'\$.videos\[0\].video_id' is missing"),
    ("msrvtt", "a.json", {"videos": []}, None, r"'\$.sentences' is missing"),
    (
        "msrvtt",
        "a.json",
        {"videos": [], "sentences": [{"video_id": "video0", "caption": "x"}]},
        None,
        r"'\$.sentences\[0\].video_id' 'video0' is not among the videos",
    ),
    ("msrvtt", "a.csv", "key,vid_key,sentence\nret0,msr1,x\n", None, "line 1: field 'video_id' is missing"),
    ("msrvtt", "a.csv", "key,vid_key,video_id,sentence\nr,m,video1\n", None, "line 2: .*see field 'sentence'"),
    ("msrvtt", "a.csv", "video_id,sentence\nvideo1,\n", None, "line 2: field 'sentence' is empty"),
    ("didemo", "a.json", [{"video": "a.mov", "times": []}], None, r"'\$\[0\].description' is missing"),
    ("didemo", "a.json", [{"video": 3, "times": []}], None, r"'\$\[0\].video' must be a string, got 3"),
    (
        "didemo",
        "a.json",
        [{"video": "a.mov", "description": "x", "times": [[0, 1], [2]]}],
        None,
        r"'\$\[0\].times\[1\]' must be two chunk numbers",
    ),
    ("didemo", "a.json", {"video": "a.mov"}, None, "expected a JSON list"),
    ("lsmdc", "a.csv", LSMDC + "a_2\tb\tc\td\tno sentence\n", None, "line 2: 5 fields, expected 6"),
    ("lsmdc", "a.csv", LSMDC.replace("_", "-"), None, "line 1: field 'clip_id' has no movie"),
    ("activitynet", "a.json", {"v_1": {"duration": 3, "timestamps": []}}, None, r"'\$.v_1.sentences' is missing"),
    (
        "activitynet",
        "a.json",
        {"v_1": {"duration": 3, "timestamps": [[0, 1]], "sentences": ["x", "y"]}},
        None,
        r"'\$.v_1.timestamps' has 1 items for 2 sentences",
    ),
    (
        "activitynet",
        "a.json",
        {"v_1": {"duration": 3, "timestamps": [[0]], "sentences": ["x"]}},
        None,
        r"'\$.v_1.timestamps\[0\]' must be a start and an end",
    ),
    (
        "activitynet",
        "a.json",
        {"": {"duration": 3, "timestamps": [], "sentences": []}},
        None,
        "clip '': its id is empty",
    ),
    ("vatex", "a.json", [{"videoID": "a\0b", "enCap": []}], None, "its path no path"),
    ("activitynet", "a.json", {"v_1": []}, None, r"'\$.v_1' must be an object"),
    ("msvd", "a.json", {"v": ["x", 3]}, None, r"'\$.v\[1\]' must be a sentence"),
    ("msvd", "a.json", {"v": "x"}, None, r"'\$.v' must be a list"),
    ("msvd", "a.pkl", pickle.dumps({"v": [["x", b"y"]]}), None, r"'\$.v\[0\]' must be a sentence"),
    ("msvd", "a.pkl", pickle.dumps([1, 2]), None, r"'\$' must be an object"),
    ("msvd", "a.pkl", pickle.dumps({3: []}), None, r"'\$' must have ids"),
    ("msvd", "a.pkl", b"\x80\x04\x95\xff", None, "not a pickle of plain lists and strings"),
    ("vatex", "a.json", [{"videoID": "x"}], None, r"'\$\[0\].enCap' is missing"),
    ("vatex", "a.json", '[{"videoID": "x", "enCap": []}, {"vid', None, r"'\$\[1\]' is not JSON"),
    ("hdvila", "a.jsonl", [{"video_id": "x", "clip": [{"clip_id": "x"}]}], None, r"line 1: field 'clip\[0\].span' is"),
    (
        "hdvila",
        "a.jsonl",
        [{"video_id": "x", "clip": [SPAN, {**SPAN, "span": ["00:00:02", "00:00:01"]}]}],
        None,
        r"line 1: field 'clip\[1\].span' ends \(1 s\) before",
    ),
    ("hdvila", "a.jsonl", [{"video_id": "x", "clip": [{**SPAN, "span": [1, 2]}]}], None, "must be two times like"),
    ("hdvila", "a.jsonl", [{"video_id": "", "clip": []}], None, "line 1: field 'video_id' is empty"),
    (
        "coco",
        "a.json",
        {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 2, "caption": "x"}]},
        None,
        r"'\$.annotations\[0\].image_id' 2 is not among the images",
    ),
    ("coco", "a.json", {"images": [{"id": 1}], "annotations": []}, None, r"'\$.images\[0\].file_name' is missing"),
    ("flickr30k", "a.csv", "image_name| comment_number| comment\na.jpg| 0\n", None, "line 2: 2 fields, expected 3"),
    ("flickr30k", "a.csv", "image|caption\na.jpg|x\n", None, "line 1: field 'image_name' is missing"),
    (
        "flickr30k",
        "a.json",
        {"images": [{"filename": "a.jpg", "sentences": [{"tokens": []}]}]},
        None,
        r"'\$.images\[0\].sentences\[0\].raw' is missing",
    ),
    ("visual-genome", "a.json", [{"id": 1, "regions": [{}]}], None, r"'\$\[0\].regions\[0\].phrase' is missing"),
    ("shards", "a.tar", b"no tar at all", Options(extract=Path("unused")), "damaged, cut off, or not a tar"),
    ("csv", "a.csv", "path,text,end\na.mp4,x,soon\n", FIELDS, "line 2: field 'end' must be seconds or a time"),
    ("csv", "a.csv", "path,text,end\na.mp4,x,0\n", FIELDS, r"line 2: field 'end' \(0 s\) is not after the start"),
    ("csv", "a.csv", "path,text,end\n,x,3\n", FIELDS, "line 2: field 'path' is empty"),
    ("csv", "a.csv", "path,text\na.mp4,x\n", FIELDS, "line 1: field 'end' is missing; the columns are: path, text"),
    ("csv", "a.csv", 'path,text,end\na.mp4,"x" y,3\n', FIELDS, "line 2: not a table"),
    ("csv", "a.csv", b"path,text,end\na.mp4,\xff,3\n", FIELDS, "line 2: not UTF-8"),
    ("tsv", "a.tsv", "path\ttext\tend\na.mp4\tx\n", FIELDS, "line 2: 2 fields, expected 3"),
    ("json", "a.json", [{"path": "a.mp4", "text": 3}], FIELDS, r"'\$\[0\].text' must be a string, got 3"),
    ("json", "a.jsonl", [{"path": "a.mp4", "end": True}], FIELDS, "line 1: field 'end' must be a number, got True"),
    ("webvid", "a.csv", "videoid,name\n1,x\n", None, "line 1: field 'page_dir' is missing"),
    ("cc3m", "a.tsv", "a caption\n", IMAGE, "line 1: 1 fields, expected 2"),
    ("cc12m", "a.tsv", "http://x/y.jpg\ta\tb\n", IMAGE, "line 1: 3 fields, expected 2"),
    ("sbu", "a.tsv", "a caption\tanother\n", IMAGE, "line 1: field 'url' is no URL"),
]


@pytest.mark.parametrize(("format_", "name", "content", "options", "message"), CASES)
def test_malformed_entries(
    tmp_path: Path, format_: str, name: str, content: Any, options: Options | None, message: str
) -> None:
    """Catches a malformed entry that passes, a traceback in its place, and half a manifest left behind."""
    source = tmp_path / name
    if isinstance(content, bytes):
        source.write_bytes(content)
    else:
        write(source, content, lines=name.endswith(".jsonl") and not isinstance(content, str))
    with pytest.raises(ManifestError, match=message) as caught:
        imported(format_, source, options=options)
    assert name in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_every_format_is_there() -> None:
    """Catches an importer without a test of malformed input."""
    assert {case[0] for case in CASES} == set(FORMATS)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b"{}", b"[]", b"null", b"[[[", b"[" * 100_000, b"\n\n"])
def test_files_that_are_something_else(tmp_path: Path, format_: str, content: bytes) -> None:
    """Catches crashes other than a clear error on empty, binary and trivial files."""
    options = IMAGE if format_ in ("cc3m", "cc12m", "sbu") else FIELDS if format_ in ("csv", "tsv", "json") else None
    if format_ == "shards":
        options = Options(extract=tmp_path / "media")
    for name in ("source", "source.pkl"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ManifestError, match=r"source|no clip is left"):
            imported(format_, tmp_path / name, options=options)
    with pytest.raises(ManifestError, match="no such file"):
        imported(format_, tmp_path / "none", options=options)
