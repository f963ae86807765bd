"""Reading shards clip by clip: ours and others', here and elsewhere, whole and damaged."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from clipvip.data.dataset import ClipSource
from clipvip.data.manifest import read_manifest
from clipvip.data.shards import ShardSet, index_tars, store, write_shards
from clipvip.errors import ClipVipError, InputError, ManifestError, UsageError
from clipvip.video import read_frames, read_image
from helpers_shards import numbers, write_greys, write_picture, write_set


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and its shards of two clips as they are, made smaller, and as frames."""
    folder = tmp_path_factory.mktemp("world")
    manifest = write_set(folder)
    write_shards(manifest, folder / "copied", clips_per_shard=2, workers=1)
    write_shards(manifest, folder / "frames", clips_per_shard=2, workers=1, media="frames", fps=10)
    return folder


@pytest.fixture
def shards(world: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(world / "copied", tmp_path / "shards"))


def test_clips_and_media_come_back(world: Path) -> None:
    """Catches a field lost on the way, and media of another clip."""
    found: ClipSource = ShardSet(world / "copied")
    clips = read_manifest(world / "set.jsonl")
    assert len(found) == len(clips) == 5
    for i, clip in enumerate(clips):
        read, media = found.load(i)
        source = clip.path.relative_to(world)
        where = {"image": source} if clip.image else {"video": source}
        assert read == replace(clip, start_s=None, end_s=None, **where)
        assert isinstance(media, bytes)
        if clip.image:
            assert np.array_equal(read_image(media), read_image(clip.path))
        elif clip.time_range is None:
            assert media == clip.path.read_bytes()
            assert np.array_equal(read_frames(media, np.arange), read_frames(clip.path, np.arange))
        else:
            expected = numbers(read_frames(clip.path, np.arange, time_range=clip.time_range))
            assert numbers(read_frames(media, np.arange)) == expected
    assert found.with_text() == {"captions": 3, "subtitle": 1, "caption": 1}


def test_frames_come_back(world: Path) -> None:
    """Catches frames in the wrong order or number, and times that belong to others."""
    found = ShardSet(world / "frames")
    clip, frames = found.load(2)
    assert isinstance(frames, list)
    pictures = [read_image(frame) for frame in frames]
    assert numbers(pictures) == list(range(5, 12))
    assert {picture.shape for picture in pictures} == {(48, 64, 3)}
    assert clip.extra["frame_times_s"] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert isinstance(found.load(4)[1], bytes)


def test_index_and_facts(world: Path) -> None:
    """Catches offsets that others cannot use."""
    facts = json.loads((world / "copied" / "shards.json").read_text())
    index = np.load(world / "copied" / "index.npy")
    assert index.dtype == np.int64
    assert index.shape == (facts["clips"], 3) == (5, 3)
    assert index[:, 0].tolist() == [0, 0, 1, 1, 2]
    assert [shard["name"] for shard in facts["shards"]] == [f"shard-00000{i}.tar" for i in range(3)]
    assert facts["bytes"] == sum(path.stat().st_size for path in (world / "copied").glob("*.tar"))
    assert facts["source"]["manifest"] == "set.jsonl"
    for number, offset, length in index.tolist():
        content = (world / "copied" / f"shard-{number:06}.tar").read_bytes()[offset : offset + length]
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            assert len(archive.getnames()) == 2


def test_order_is_a_permutation(world: Path) -> None:
    """Catches an order of something else than the clips."""
    found = ShardSet(world / "copied")
    assert sorted(found.order(0, 1).tolist()) == list(range(5))


def test_pickled_and_in_other_processes(world: Path) -> None:
    """Catches open files or the whole index on their way to loader workers."""
    found = ShardSet(world / "copied")
    expected = found.load(1)
    assert isinstance(found.index, np.memmap)
    pickled = pickle.dumps(found)
    assert len(pickled) < 3000
    assert pickle.loads(pickled).load(1) == expected
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).load(1)[0].clip_id)"
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "mkv"


def test_reading_needs_no_torch(world: Path) -> None:
    """Catches processes that write shards and wait for what only models need."""
    code = "import sys, clipvip.data.shards; assert not {'torch', 'transformers', 'fsspec'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_few_files_are_open(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a process that holds a thousand shards open."""
    monkeypatch.setattr(store, "MAX_OPEN", 2)
    found = ShardSet(world / "copied")
    for i in (0, 2, 4, 1, 3):
        found.load(i)
        assert len(found._shards[0].store._files) <= 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("index", [-1, 5])
def test_there_is_no_such_clip(world: Path, index: int) -> None:
    """Catches an index from the end that gives some clip."""
    with pytest.raises(IndexError, match="of 5"):
        ShardSet(world / "copied").load(index)


def test_a_missing_shard(shards: Path) -> None:
    """Catches an error that does not name the file."""
    (shards / "shard-000001.tar").unlink()
    assert ShardSet(shards).load(0)[0].clip_id == "whole"
    with pytest.raises(ClipVipError, match=r"shard-000001\.tar: no such file"):
        ShardSet(shards).load(2)
    with pytest.raises(ClipVipError, match=r"shard-000001\.tar: missing, or not"):
        ShardSet(shards).verify()


def test_a_shard_of_another_size(shards: Path) -> None:
    """Catches a copy that was cut off."""
    path = shards / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(ClipVipError, match=r"shard-000000\.tar: \d+ bytes, but shards\.json says"):
        ShardSet(shards).load(0)


def test_a_changed_bit_is_found_by_verify(shards: Path) -> None:
    """Catches a check of sizes only."""
    told: list[tuple[int, int]] = []
    ShardSet(shards).verify(lambda *done: told.append(done))
    assert told == [(1, 4)] * 4
    path = shards / "shard-000002.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(ClipVipError, match=r"shard-000002\.tar: missing, or not as it was written") as caught:
        ShardSet(shards).verify()
    assert "000001" not in str(caught.value)


@pytest.mark.parametrize("change", ["shift", "stretch", "join"])
def test_an_index_of_other_shards(shards: Path, change: str) -> None:
    """Catches media given to a clip that they do not belong to."""
    index = np.load(shards / "index.npy")
    index[0] += {"shift": [0, 512, 0], "stretch": [0, 0, -512], "join": [0, 0, index[1, 2]]}[change]
    np.save(shards / "index.npy", index)
    with pytest.raises(ClipVipError, match="does not hold a clip"):
        ShardSet(shards).load(0)
    with pytest.raises(ClipVipError, match=r"index\.npy: missing, or not"):
        ShardSet(shards).verify()


def test_damaged_notes(shards: Path, tmp_path: Path) -> None:
    """Catches tracebacks instead of a line that says what to do."""
    with pytest.raises(ClipVipError, match=r"shards\.json: not there; run `clipvip data shard` again"):
        ShardSet(tmp_path)
    index = (shards / "index.npy").read_bytes()
    for content, problem in ((index[:100], "damaged"), (b"", "damaged"), (None, "no such file")):
        (shards / "index.npy").unlink()
        if content is not None:
            (shards / "index.npy").write_bytes(content)
        with pytest.raises(ClipVipError, match=rf"index\.npy: {problem}"):
            ShardSet(shards)
        (shards / "index.npy").write_bytes(index)
    np.save(shards / "index.npy", np.zeros((4, 3), np.int64))
    with pytest.raises(ClipVipError, match=r"\[4, 3\] does not fit shards\.json \(5 clips\)"):
        ShardSet(shards)
    for text in ("{", "[]", '{"format": "clipvip-shards", "version": 99}'):
        (shards / "shards.json").write_text(text)
        with pytest.raises(ClipVipError, match="damaged, or of another version"):
            ShardSet(shards)


@pytest.fixture
def remote(world: Path) -> Any:
    """The shards in fsspec's memory."""
    system = fsspec.filesystem("memory")
    system.put(str(world / "copied"), "/bucket/shards", recursive=True)
    yield "memory://bucket/shards"
    system.rm("/bucket", recursive=True)


def test_elsewhere(world: Path, remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches remote shards that read differently, or whole where a stretch is enough."""
    here, there = ShardSet(world / "copied"), ShardSet(remote)
    system = fsspec.filesystem("memory")
    requests: list[tuple[int, int]] = []
    fetch = type(system).cat_file

    def counted(self: Any, path: str, start: int, end: int) -> bytes:
        requests.append((start, end))
        return bytes(fetch(self, path, start=start, end=end))

    monkeypatch.setattr(type(system), "cat_file", counted)
    for i in range(5):
        assert there.load(i) == here.load(i)
    assert requests == [(offset, offset + length) for _, offset, length in here.index.tolist()]
    assert pickle.loads(pickle.dumps(there)).load(3) == here.load(3)
    there.verify()
    system.rm("/bucket/shards/shard-000000.tar")
    with pytest.raises(ClipVipError, match=r"shard-000000\.tar: no such file"):
        ShardSet(remote).load(0)


def test_a_url_of_this_machine(world: Path) -> None:
    """Catches local files that are fetched piece by piece."""
    found = ShardSet(f"file://{world / 'copied'}")
    assert isinstance(found.index, np.memmap)
    assert found.load(0)[0].clip_id == "whole"


def test_urls_that_cannot_be_opened() -> None:
    """Catches a missing plug-in that ends in a traceback."""
    with pytest.raises(UsageError, match="not a URL that fsspec knows"):
        ShardSet("nosuch://bucket/shards")
    if "s3fs" not in sys.modules and shutil.which("s3fs") is None:
        with pytest.raises(UsageError, match=r"s3 needs a plug-in of fsspec \(s3: pip install s3fs"):
            ShardSet("s3://bucket/shards")


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def others(tmp_path: Path) -> list[Path]:
    """Two tars as downloaders leave them."""
    video = write_greys(tmp_path / "v.mp4").read_bytes()
    picture = write_picture(tmp_path / "p.jpg").read_bytes()
    failed = json.dumps({"key": "001", "status": "failed_to_download", "caption": "gone"}).encode()
    row = json.dumps({"url": "https://example.org/x", "caption": "from json", "status": "success"}).encode()
    first = [("000.jpg", picture), ("000.json", row), ("000.txt", "früh".encode()), ("001.json", failed)]
    second = [("./a/" + "x" * 150 + ".mp4", video), ("./a/" + "x" * 150 + ".json", row), ("./b.mp4", video)]
    return [write_tar(tmp_path / "00000.tar", first), write_tar(tmp_path / "00001.tar", second)]


def test_tars_of_others(others: list[Path]) -> None:
    """Catches captions lost, failed downloads taken for clips, and long names that move the offsets."""
    found = ShardSet.from_tars(others)
    read = [found.load(i) for i in range(len(found))]
    assert [clip.clip_id for clip, _ in read] == ["000", "x" * 150, "b"]
    assert [clip.captions for clip, _ in read] == [("früh",), ("from json",), ()]
    assert read[0][0].image == Path("000.jpg")
    assert read[0][0].extra == {"url": "https://example.org/x"}
    assert read[1][1] == read[2][1] == (others[0].parent / "v.mp4").read_bytes()
    assert found.with_text() == {"captions": 2, "subtitle": 0, "caption": 0}
    assert np.array_equal(index_tars(others), found.index)
    assert pickle.loads(pickle.dumps(found)).load(1) == read[1]
    with pytest.raises(InputError, match="no checksums"):
        found.verify()


def test_our_tars_without_their_notes(world: Path) -> None:
    """Catches texts that are lost when shards are named one by one."""
    noted, bare = ShardSet(world / "copied"), ShardSet.from_tars(sorted((world / "copied").glob("*.tar")))
    assert np.array_equal(noted.index, bare.index)
    assert noted.with_text() == bare.with_text()
    assert noted.load(1) == bare.load(1)


def test_tars_of_others_elsewhere(others: list[Path]) -> None:
    """Catches URLs taken for paths."""
    system = fsspec.filesystem("memory")
    system.put(str(others[1]), "/others/1.tar")
    assert ShardSet.from_tars(["memory://others/1.tar"]).load(1)[0].clip_id == "b"
    system.rm("/others", recursive=True)


def test_tars_that_cannot_be_read_in_place(others: list[Path], tmp_path: Path) -> None:
    """Catches a compressed or damaged tar that looks like an empty one."""
    packed = write_tar(tmp_path / "packed.tar", [("a.mp4", b"x")], "w:gz")
    short = tmp_path / "short.tar"
    short.write_bytes(others[1].read_bytes()[:2000])
    for path in (packed, short):
        with pytest.raises(ClipVipError, match=rf"{path.name}.*(compressed|damaged)"):
            index_tars([path])
    with pytest.raises(InputError, match="not one clip"):
        index_tars([write_tar(tmp_path / "texts.tar", [("a.txt", b"x")])])
    with pytest.raises(ManifestError, match="not JSON"):
        index_tars([write_tar(tmp_path / "bad.tar", [("a.json", b"{"), ("a.mp4", b"x")])])
    with pytest.raises(ClipVipError, match="no such file"):
        index_tars([tmp_path / "nowhere.tar"])


def test_webdataset_reads_them(world: Path) -> None:
    """Catches tars that the format's own library cannot use."""
    webdataset = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted((world / "frames").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [json.loads(sample["json"])["clip_id"] for sample in samples] == ["whole", "mkv", "part", "tail", "picture"]
    assert sum(key.endswith(".jpg") for key in samples[2]) == 7
