"""Importers of captioned images, tables and lists of flat objects."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from clipvip.data.importers import Options
from clipvip.data.importers.reading import iter_list
from clipvip.errors import ManifestError, UsageError
from helpers_import import imported, touch, write

COCO = {
    "info": {"year": 2017},
    "images": [{"id": 391895, "file_name": "000000391895.jpg", "height": 360}, {"id": 9, "file_name": "9.jpg"}],
    "annotations": [
        {"image_id": 391895, "id": 770337, "caption": "A man with a red helmet."},
        {"image_id": 9, "id": 1, "caption": "A bear"},
        {"image_id": 391895, "id": 771687, "caption": "Man riding a motor bike\n"},
    ],
}
KARPATHY = {
    "images": [
        {
            "sentids": [0, 1], "imgid": 0, "filename": "1000092795.jpg", "split": "train",
            "sentences": [{"tokens": ["two"], "raw": "Two men.", "imgid": 0, "sentid": 0}, {"raw": "Two friends."}],
        }
    ],
    "dataset": "flickr30k",
}  # fmt: skip
FLICKR = (
    "image_name| comment_number| comment\n"
    '1000092795.jpg| 0| Two young guys with "shaggy" hair .\n'
    "1000092795.jpg| 1| Two young , White males .\n"
    "2199200615.jpg| 4   A dog runs across the grass .\n"
)
REGIONS = [
    {"region_id": 1382, "width": 82, "image_id": 1, "phrase": "the clock is green"},
    {"region_id": 1383, "width": 9, "image_id": 1, "phrase": "shade is along the street "},
]
GENOME = [{"id": 1, "regions": REGIONS}]
WEBVID = (
    "videoid,contentUrl,duration,page_dir,name\n"
    '21179416,https://w.org/21179416.mp4,PT00H00M11S,006001_006050,"Aerial shot, winter forest"\n'
    "5629184,https://w.org/5629184.mp4,PT00H00M29S,071501_071550,Senior couple\n"
)
URL = "https://w.org/x/cat.JPG?w=1"


def test_coco_by_id_and_karpathy(tmp_path: Path) -> None:
    """Catches captions matched by place instead of by id, and image rows written as videos."""
    rows, report = imported("coco", write(tmp_path / "captions_train2017.json", COCO), split="train")
    assert rows[0] == {
        "clip_id": "391895", "image": "000000391895.jpg", "split": "train",
        "captions": ["A man with a red helmet.", "Man riding a motor bike"],
    }  # fmt: skip
    assert (report.clips, report.captions) == (2, 3)
    image = {
        **KARPATHY["images"][0],
        "filepath": "val2014",
        "filename": "COCO_val2014_000000391895.jpg",
        "cocoid": 391895,
    }
    source = write(tmp_path / "dataset_coco.json", {"images": [image]})
    rows, _ = imported("coco", source, videos=touch(tmp_path / "train2017", "000000391895.jpg"))
    assert (rows[0]["clip_id"], rows[0]["image"]) == ("391895", "train2017/000000391895.jpg")


def test_flickr30k_csv_with_its_broken_line_and_karpathy(tmp_path: Path) -> None:
    """Catches the one line of the public csv that lacks a delimiter, and quotes that swallow it."""
    rows, _ = imported("flickr30k", write(tmp_path / "results.csv", FLICKR))
    assert rows[0]["captions"] == ['Two young guys with "shaggy" hair .', "Two young , White males ."]
    assert rows[1] == {
        "clip_id": "2199200615",
        "image": "2199200615.jpg",
        "captions": ["A dog runs across the grass ."],
    }
    rows, _ = imported("flickr30k", write(tmp_path / "dataset_flickr30k.json", KARPATHY))
    assert rows == [
        {"clip_id": "1000092795", "image": "1000092795.jpg", "captions": ["Two men.", "Two friends."], "split": "train"}
    ]


def test_visual_genome_in_its_two_folders(tmp_path: Path) -> None:
    """Catches images of the second folder reported missing."""
    images = touch(tmp_path / "vg", "VG_100K_2/1.jpg")
    rows, report = imported("visual-genome", write(tmp_path / "region_descriptions.json", GENOME), videos=images)
    assert rows[0]["captions"] == ["the clock is green", "shade is along the street"]
    assert rows[0]["image"] == "vg/VG_100K_2/1.jpg"
    assert report.missing == 0


@pytest.mark.parametrize(("name", "line"), [("cc3m", f'a "cat"\t{URL}\n'), ("cc12m", f'{URL}\ta "cat"\n')])
def test_pairs_of_captions_and_urls(tmp_path: Path, name: str, line: str) -> None:
    """Catches the two orders of columns mistaken for each other, and images nobody can locate."""
    source = write(tmp_path / "train.tsv", line * 2)
    with pytest.raises(UsageError, match="--field image="):
        imported(name, source)
    templates = {
        "{row:09}.jpg": ["000000000.jpg", "000000001.jpg"],
        "i/{url|md5}.jpg": [f"i/{hashlib.md5(URL.encode()).hexdigest()}.jpg"] * 2,
        "{url|name}": ["cat.JPG"] * 2,
    }
    for template, paths in templates.items():
        rows, _ = imported(name, source, options=Options(fields={"image": [template]}))
        assert [row["image"] for row in rows] == paths
        assert (rows[1]["clip_id"], rows[1]["captions"], rows[1]["url"]) == ("000000001", ['a "cat"'], URL)
    with pytest.raises(ManifestError, match=r"train.tsv, line 1: field 'url' is no URL: 'a \"cat\"'"):
        imported("cc3m" if name == "cc12m" else "cc12m", source, options=Options(fields={"image": ["{row}"]}))


def test_webvid_page_folders(tmp_path: Path) -> None:
    """Catches columns taken by place: their order differs from release to release."""
    videos = touch(tmp_path / "webvid", "videos/006001_006050/21179416.mp4", "5629184.mp4")
    rows, report = imported("webvid", write(tmp_path / "results_2M_train.csv", WEBVID), videos=videos)
    assert rows[0] == {
        "clip_id": "21179416", "video": "webvid/videos/006001_006050/21179416.mp4",
        "captions": ["Aerial shot, winter forest"], "duration": "PT00H00M11S",
        "contentUrl": "https://w.org/21179416.mp4",
    }  # fmt: skip
    assert (rows[1]["video"], report.missing) == ("webvid/5629184.mp4", 0)


@pytest.mark.parametrize("mark", [",", ";", "|", "\t"])
def test_any_table_by_declared_fields(tmp_path: Path, mark: str) -> None:
    """Catches a wrong delimiter, times that stay text, lines of one clip that overwrite each other."""
    header = mark.join(("path", "text", "alt", "from", "to", "id", "mood"))
    lines = [
        mark.join(("a/b.mp4", "a dog", "", "00:00:01.5", "3", "x", "sad")),
        mark.join(("a/b.mp4", '"two cats, three"', "cats", "00:00:01.5", "3", "x", "glad")),
    ]
    source = write(tmp_path / "any.csv", "\ufeff" + "\r\n".join((header, *lines, "")))
    fields = {"video": ["path"], "captions": ["text", "alt"], "start_s": ["from"], "end_s": ["to"], "clip_id": ["id"]}
    rows, report = imported("csv", source, options=Options(fields=fields, merge=True))
    assert rows == [
        {
            "clip_id": "x",
            "video": "a/b.mp4",
            "captions": ["a dog", "two cats, three", "cats"],
            "start_s": 1.5,
            "end_s": 3.0,
        }
    ]
    assert report.empty_texts == 1
    assert list(report.notes) == ["columns not taken (declare them with --field KEY=COLUMN): mood"]
    rows, report = imported("csv", source, options=Options(fields={**fields, "mood": ["mood"]}))
    assert (len(rows), rows[0]["mood"], report.duplicates, report.duplicate_examples) == (1, "sad", 1, ["x"])


def test_json_list_lines_and_derived_ids(tmp_path: Path) -> None:
    """Catches the two JSON shapes told apart wrongly, and clips of one file that get one id."""
    objects = [
        {"file": "v.mp4", "texts": ["one", "two"], "t": 2.5, "more": {"kept": 1}},
        {"file": "v.mp4", "texts": "three", "t": 9},
    ]
    options = Options(fields={"video": ["file"], "captions": ["texts"], "start_s": ["t"], "more": ["more"]})
    for source in (write(tmp_path / "list.json", objects), write(tmp_path / "lines.jsonl", objects, lines=True)):
        rows, _ = imported("json", source, options=options)
        assert [row["clip_id"] for row in rows] == ["v@2.5", "v@9"]
        assert [row["captions"] for row in rows] == [["one", "two"], ["three"]]
        assert rows[0]["more"] == {"kept": 1}
    with pytest.raises(ManifestError, match="no entry has the field 'txt'"):
        imported("json", source, options=Options(fields={"video": ["file"], "captions": ["txt"]}))


def test_long_lists_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches values lost or torn where one piece of a file ends and the next begins."""
    values = [{"i": i, "text": 'ä, ] "} ' * (i % 7)} for i in range(60)]
    source = tmp_path / "list.json"
    for text in (json.dumps(values), json.dumps(values, indent=2), "[]", " [ ] "):
        source.write_text(text, encoding="utf-8")
        expected = json.loads(text)
        for chunk in (1, 2, 3, 7, 64, 1 << 20):
            monkeypatch.setattr("clipvip.data.importers.reading._CHUNK", chunk)
            assert [entry.value for entry in iter_list(source)] == expected
    for text in ('[{"a": 1}', '[{"a": 1},]', '[{"a": 1} {"a": 2}]', '[{"a": 1}] x', '[{"a": 1}]]', "[", "[,]", '[{"a'):
        source.write_text(text, encoding="utf-8")
        with pytest.raises(ManifestError, match=r"list\.json"):
            list(iter_list(source))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(), "say where the media files are"),
        (Options(fields={"video": ["{path"]}), "brace without its pair"),
        (Options(fields={"video": ["{path|rot13}"]}), "no filter 'rot13'"),
        (Options(fields={"video": ["a", "b"]}), "declared twice"),
        (Options(fields={"video": ["path"]}, columns=("a", "b")), "column 'path'; the columns are: a, b"),
        (Options(fields={"video": ["path"]}, delimiter="||"), "one character, or tab"),
        (Options(fields={"video": ["path"]}, extract=Path("x")), "--extract has no use for csv"),
    ],
)
def test_wrong_declarations(tmp_path: Path, options: Options, message: str) -> None:
    """Catches an option that is accepted and ignored."""
    with pytest.raises(UsageError, match=message):
        imported("csv", write(tmp_path / "t.csv", "path\na.mp4\n"), options=options)
