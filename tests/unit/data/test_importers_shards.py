"""img2dataset and video2dataset: tars and unpacked folders."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from clipvip.data.importers import Options
from clipvip.data.importers.shards import samples_of
from clipvip.data.shards import ShardSet
from clipvip.errors import ManifestError, UsageError
from helpers_import import imported

META = {"url": "https://w.org/a", "caption": "of the json", "key": "000000000", "status": "success", "exif": "{}"}


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w", special: tarfile.TarInfo | None = None) -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if special:
            tar.addfile(special)
    return path


def shard(path: Path, mode: str = "w") -> Path:
    return write_tar(
        path,
        {
            "000000000.jpg": b"picture" * 1000,
            "000000000.json": json.dumps(META).encode(),
            "000000000.txt": "ein Bär ".encode(),
            "000000001.json": json.dumps({**META, "key": "000000001", "status": "failed_to_download"}).encode(),
            "000000002_000.json": json.dumps({**META, "caption": None, "url": "u"}).encode(),
            "000000002_000.mp4": b"film" * 3000,
        },
        mode,
    )


@pytest.mark.parametrize(("name", "mode"), [("00000.tar", "w"), ("00000.tar.gz", "w:gz")])
def test_tars_are_unpacked_and_read(tmp_path: Path, name: str, mode: str) -> None:
    """Catches failed downloads that become rows, a caption of the .json before that of the .txt, images as videos."""
    source = shard(tmp_path / name, mode)
    rows, report = imported("shards", source, options=Options(extract=tmp_path / "media"))
    assert rows == [
        {
            "clip_id": "000000000",
            "image": "media/00000/000000000.jpg",
            "captions": ["ein Bär"],
            "url": "https://w.org/a",
        },
        {"clip_id": "000000002_000", "video": "media/00000/000000002_000.mp4", "url": "u"},
    ]
    assert (tmp_path / "media/00000/000000002_000.mp4").read_bytes() == b"film" * 3000
    assert sorted(path.name for path in (tmp_path / "media/00000").iterdir()) == ["000000000.jpg", "000000002_000.mp4"]
    assert report.notes == {"samples without media (failed downloads) left out": 1}
    assert report.without_text == 1


def test_a_second_run_goes_on_and_never_mixes_shards(tmp_path: Path) -> None:
    """Catches files written again, and media of another shard of the same name taken for this one's."""
    source = shard(tmp_path / "00000.tar")
    options = Options(extract=tmp_path / "media")
    first, _ = imported("shards", source, options=options)
    kept, gone = tmp_path / "media/00000/000000000.jpg", tmp_path / "media/00000/000000002_000.mp4"
    before = kept.stat().st_mtime_ns
    gone.unlink()
    assert imported("shards", source, options=options)[0] == first
    assert kept.stat().st_mtime_ns == before
    assert gone.exists()
    for content in (b"PICTURE" * 1000, b"picture" * 999, b"picture" * 1001):
        other = write_tar(tmp_path / "00000.other.tar", {"000000000.jpg": content})
        with pytest.raises(UsageError, match=r"000000000.jpg is there already and differs"):
            imported("shards", other, options=options)
    assert kept.read_bytes() == b"picture" * 1000


def test_unpacked_folders(tmp_path: Path) -> None:
    """Catches shards' own statistics taken for samples, and sub-folders left out."""
    with tarfile.open(shard(tmp_path / "00000.tar")) as tar:
        tar.extractall(tmp_path / "files" / "00000", filter="data")
    (tmp_path / "files" / "00000_stats.json").write_text('{"count": 3}')
    (tmp_path / "files" / "00000.parquet").write_bytes(b"PAR1")
    rows, report = imported("shards", tmp_path / "files")
    assert [row.get("image", row.get("video")) for row in rows] == [
        "files/00000/000000000.jpg",
        "files/00000/000000002_000.mp4",
    ]
    assert list(report.notes.values()) == [1]


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ({"../outside.jpg": b"x"}, r"'../outside.jpg' leads out of the folder"),
        ({"a/../../outside.jpg": b"x"}, "leads out of the folder"),
        ({"/outside.jpg": b"x"}, "leads out of the folder"),
        ({"..\\outside.jpg": b"x"}, "leads out of the folder"),
        ({"C:outside.jpg": b"x"}, "leads out of the folder"),
        (special("l.jpg", tarfile.SYMTYPE, "/etc/passwd"), "'l.jpg' is a link or device"),
        (special("l.jpg", tarfile.LNKTYPE, "../outside.jpg"), "'l.jpg' is a link or device"),
        (special("d.jpg", tarfile.CHRTYPE), "'d.jpg' is a link or device"),
        (special("p.jpg", tarfile.FIFOTYPE), "'p.jpg' is a link or device"),
    ],
)
def test_path_tricks_are_refused(tmp_path: Path, member: dict[str, bytes] | tarfile.TarInfo, message: str) -> None:
    """Catches a tar that writes outside the folder it is unpacked to."""
    work = tmp_path / "work"
    work.mkdir()
    plain = {"000.jpg": b"x"} | (member if isinstance(member, dict) else {})
    tar = write_tar(work / "a.tar", plain, special=None if isinstance(member, dict) else member)
    with pytest.raises(ManifestError, match=message) as caught:
        imported("shards", tar, options=Options(extract=work / "media" / "deep"))
    assert "a.tar" in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()) == [
        "000.jpg",
        "a.tar",
    ]


@pytest.mark.parametrize("cut", [5, 700, 8192, -1024, -9000])
def test_a_tar_that_is_cut_off(tmp_path: Path, cut: int) -> None:
    """Catches a half download that imports as a smaller shard."""
    source = shard(tmp_path / "00000.tar")
    source.write_bytes(source.read_bytes().rstrip(b"\0")[:cut] if cut < 0 else source.read_bytes()[:cut])
    with pytest.raises(ManifestError, match=r"00000\.tar: damaged"):
        imported("shards", source, options=Options(extract=tmp_path / "media"))
    assert not list(tmp_path.rglob("*.partial"))


def test_a_damaged_header_in_the_middle(tmp_path: Path) -> None:
    """Catches samples behind a damaged header that nobody misses."""
    source = shard(tmp_path / "00000.tar")
    content = bytearray(source.read_bytes())
    at = content.index(b"000000002_000.json")
    content[at : at + 4] = b"XXXX"
    source.write_bytes(content)
    with pytest.raises(ManifestError, match=rf"00000\.tar: damaged or cut off at byte {at}"):
        imported("shards", source, options=Options(extract=tmp_path / "media"))


def test_extract_is_asked_for_and_only_where_it_helps(tmp_path: Path) -> None:
    """Catches a manifest that points into tars, and an option that does nothing."""
    source = shard(tmp_path / "00000.tar")
    with pytest.raises(UsageError, match="--extract DIR"):
        imported("shards", source)
    (tmp_path / "files").mkdir()
    with pytest.raises(UsageError, match="has no tars"):
        imported("shards", tmp_path / "files", options=Options(extract=tmp_path / "media"))


FILM = "0001_A_00.00.51.926-00.00.54.129"
OTHER = "0001_A_00.01.13.200-00.01.15.100"
DOTTED = {f"{FILM}.mp4": b"1", f"{FILM}.txt": b"one", f"{OTHER}.mp4": b"2", f"{OTHER}.txt": b"two", "7.mp4": b"3"}


def both_ways(tmp_path: Path, members: dict[str, bytes]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Rows of an import of a tar, and of the same files unpacked; trained on, the tar has the same clips."""
    tar = write_tar(tmp_path / "t" / "00000.tar", members)
    packed, _ = imported("shards", tar, options=Options(extract=tmp_path / "media"))
    found = ShardSet.from_tars([tar])
    clips = [found.load(i)[0] for i in range(len(found))]
    assert [clip.clip_id for clip in clips] == [row["clip_id"] for row in packed]
    assert [list(clip.captions) for clip in clips] == [row.get("captions", []) for row in packed]
    for name, content in members.items():
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / name).write_bytes(content)
    return packed, imported("shards", tmp_path / "files")[0]


def test_names_with_dots_are_samples_of_their_own(tmp_path: Path) -> None:
    """Catches clips of one film, named by their times, that become one clip without captions."""
    (tmp_path / "t").mkdir()
    for rows in both_ways(tmp_path, DOTTED):
        assert [(row["clip_id"], row.get("captions")) for row in rows] == [
            (FILM, ["one"]), (OTHER, ["two"]), ("7", None)
        ]  # fmt: skip
        assert len({row["video"] for row in rows}) == 3


def test_a_name_without_more_dots_holds_its_sample_together(tmp_path: Path) -> None:
    """Catches WebDataset's own compound names taken apart: the caption of 7.clip.mp4 is in 7.txt."""
    (tmp_path / "t").mkdir()
    for rows in both_ways(tmp_path, {"7.clip.mp4": b"1", "7.txt": b"seven", "8.mp4": b"2", "8.jpg": b"p"}):
        assert [(row["clip_id"], row.get("captions")) for row in rows] == [("7", ["seven"]), ("8", None)]
        assert all("video" in row for row in rows)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["7.mp4", "8.mp4", "7.txt"], r"sample '7' comes in pieces, or twice \('7.txt' is apart"),
        (["7.mp4", "8.mp4", "7.mp4"], "sample '7' comes in pieces, or twice"),
        (["a.1.mp4", "b.mp4", "a.1.txt"], r"sample 'a.1' comes in pieces"),
        (["a.1.mp4", "a.2.mp4", "a.1.txt"], r"sample 'a.1' comes in pieces"),
        (["a.1.mp4", "b.mp4", "a.txt"], r"sample 'a' comes in pieces"),
        (["a.1.mp4", "a.2.mp4", "a.txt"], r"2 media files in one sample \(a.1.mp4, a.2.mp4\)"),
        (["a.jpg", "a.png"], r"2 media files in one sample"),
    ],
)
def test_no_sample_is_lost_without_an_error(names: list[str], message: str, tmp_path: Path) -> None:
    """Catches a sample whose caption, or which itself, is left out without a word; importing and training agree."""
    tar = tmp_path / "00000.tar"
    with tarfile.open(tar, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(ManifestError, match=message):
        imported("shards", tar, options=Options(extract=tmp_path / "media"))
    with pytest.raises(ManifestError, match=message):
        ShardSet.from_tars([tar])


def test_keys_that_repeat_across_shards_are_all_kept(tmp_path: Path) -> None:
    """Catches the clips of a second shard dropped because its keys begin at 0 again; training kept them."""
    tars = [
        write_tar(tmp_path / f"{number:05}.tar", {"0.mp4": b"%d" % number, "0.txt": b"of %d" % number})
        for number in (0, 1)
    ]
    rows, report = imported("shards", *tars, options=Options(extract=tmp_path / "media"))
    assert [(row["clip_id"], row["captions"]) for row in rows] == [("0", ["of 0"]), ("00001/0", ["of 1"])]
    assert report.duplicates == 0
    found = ShardSet.from_tars(tars)
    assert [found.load(i)[0].clip_id for i in range(2)] == ["0", "00001/0"]
    with pytest.raises(ManifestError, match="another sample has the id '00000/0' already"):
        imported("shards", tars[0], tars[0], tars[0], options=Options(extract=tmp_path / "media"))


def test_names_with_two_extensions_are_one_sample():
    """Catches the caption of "7.image.jpg" lost since its own name is "7.caption.txt"."""
    names = ["7.caption.txt", "7.image.jpg", "8.a.mp4", "8.a.txt", "8.b.mp4", "9.00.51.mp4", "9.00.51.txt"]
    made = [(key, members) for key, members in samples_of(names, lambda name: name, "x.tar")]
    assert made == [
        ("7", ["7.caption.txt", "7.image.jpg"]),
        ("8.a", ["8.a.mp4", "8.a.txt"]),
        ("8.b", ["8.b.mp4"]),
        ("9.00.51", ["9.00.51.mp4", "9.00.51.txt"]),
    ]
