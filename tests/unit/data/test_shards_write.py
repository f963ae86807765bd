"""What stands in a shard: members, bytes, rows; what is left out."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipvip.data.manifest import read_manifest
from clipvip.data.shards import ShardTask, write_shards
from clipvip.data.shards.layout import from_row, to_row
from clipvip.data.shards.write import Numbered, pack, unpack
from clipvip.errors import ClipVipError, UsageError, VideoDecodeError
from clipvip.records import Clip
from clipvip.video import probe, read_frames
from helpers_shards import digests, numbers, write_greys, write_picture, write_set


def written(tmp_path: Path, clips: list[Clip], **options: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The members of a shard of these clips, in order, and the facts of its receipt."""
    items = [Numbered(number, clip) for number, clip in enumerate(clips)]
    beats: list[None] = []
    facts = ShardTask(str(tmp_path), **options).run(items, tmp_path / "shard.tar", lambda: beats.append(None))
    assert len(beats) == len(clips)
    with tarfile.open(tmp_path / "shard.tar") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}, facts  # type: ignore[union-attr]


def test_files_are_copied_and_parts_are_cut(tmp_path: Path) -> None:
    """Catches bytes that change on the way, a wrong extension or order, and times that no longer fit the media."""
    clips = read_manifest(write_set(tmp_path))
    members, facts = written(tmp_path, clips)
    assert list(members) == [
        "000000000.json", "000000000.mp4", "000000001.json", "000000001.mkv", "000000002.json", "000000002.mp4",
        "000000003.json", "000000003.mp4", "000000004.json", "000000004.png",
    ]  # fmt: skip
    media = tmp_path / "media"
    assert members["000000000.mp4"] == (media / "a.mp4").read_bytes()
    assert members["000000001.mkv"] == (media / "b.part.MKV").read_bytes()
    assert members["000000004.png"] == (media / "c.png").read_bytes()
    assert numbers(read_frames(members["000000002.mp4"], np.arange)) == list(range(5, 12))
    assert json.loads(members["000000000.json"]) == {
        "clip_id": "whole", "captions": ["one", "zwei, ∂rei"], "split": "train", "source": "media/a.mp4",
        "media": "video",
    }  # fmt: skip
    assert json.loads(members["000000002.json"]) == {
        "clip_id": "part", "shadowed": {"source": "web", "media": 7}, "source": "media/a.mp4", "media": "video",
        "source_range_s": [0.5, 1.2],
    }  # fmt: skip
    assert json.loads(members["000000003.json"])["source_range_s"] == [1.5, None]
    assert facts["texts"] == {"captions": 3, "subtitle": 1, "caption": 1}
    assert facts["clips"] == 5


def test_frames(tmp_path: Path) -> None:
    """Catches frames without their times, and pictures treated as videos."""
    clips = read_manifest(write_set(tmp_path))
    members, _ = written(tmp_path, [clips[2], clips[4]], media="frames", fps=5, short_side=24)
    row = json.loads(members["000000000.json"])
    assert list(members) == [
        "000000000.json", *(f"000000000.{i:03}.jpg" for i in range(4)), "000000001.json", "000000001.jpg",
    ]  # fmt: skip
    assert row["media"] == "frames"
    assert row["frame_times_s"] == [0.0, 0.2, 0.4, 0.6]
    assert json.loads(members["000000001.json"])["media"] == "image"


def test_frames_at_three_a_second_unless_told(tmp_path: Path) -> None:
    """Catches a default that stores every frame as a JPEG."""
    clip = Clip("a", video=write_greys(tmp_path / "a.mp4"))
    members, _ = written(tmp_path, [clip], media="frames")
    assert json.loads(members["000000000.json"])["frame_times_s"] == [0.0, 0.3, 0.7, 1.0, 1.3, 1.7]


def test_names_sort_beyond_a_thousand_frames(tmp_path: Path) -> None:
    """Catches a frame 1000 that stands before frame 101 for readers that sort."""
    clip = Clip("a", video=write_greys(tmp_path / "a.mp4", 1010, width=16, height=16))
    members, _ = written(tmp_path, [clip], media="frames", fps=10)
    names = [name for name in members if name.endswith(".jpg")]
    assert len(names) == 1010
    assert names == sorted(names)


def test_limits_are_kept_where_they_limit(tmp_path: Path) -> None:
    """Catches --fps or --short-side passed over, for videos or for pictures."""
    clips = read_manifest(write_set(tmp_path))
    members, _ = written(tmp_path, [clips[1], clips[4]], fps=5, short_side=24)
    info = probe(members["000000000.mp4"])
    assert (info.width, info.height, info.num_frames) == (32, 24, 10)
    assert "000000001.jpg" in members


def test_members_have_no_owner_and_no_time(tmp_path: Path) -> None:
    """Catches tars that differ from user to user and from hour to hour; also offsets that miss their clip."""
    clips = read_manifest(write_set(tmp_path))
    _, facts = written(tmp_path, clips)
    with tarfile.open(tmp_path / "shard.tar") as archive:
        for member in archive:
            look = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode)
            assert look == (0, 0, 0, "", "", 0o644)
        starts = [member.offset for member in archive if member.name.endswith(".json")]
    lengths = unpack(facts["lengths"])
    assert (np.cumsum(lengths) - lengths).tolist() == starts
    assert (tmp_path / "shard.tar").stat().st_size >= lengths.sum() + 1024


def test_bad_clips_are_left_out_and_told(tmp_path: Path) -> None:
    """Catches half a clip in a shard, a clip that vanishes without a word, and a policy that is not kept."""
    clips = read_manifest(write_set(tmp_path, damaged=True))
    missing = replace(clips[0], clip_id="missing", video=tmp_path / "nowhere.mp4")
    late = replace(clips[0], clip_id="late", start_s=100.0)
    members, facts = written(tmp_path, [clips[0], clips[2], missing, late, clips[1]])
    assert list(members) == ["000000000.json", "000000000.mp4", "000000004.json", "000000004.mkv"]
    assert [clip_id for clip_id, _ in facts["failures"]] == ["broken", "missing", "late"]
    assert "no such file" in dict(facts["failures"])["missing"]
    assert "beyond the end" in dict(facts["failures"])["late"]
    with pytest.raises(VideoDecodeError, match=r"broken\.mp4"):
        written(tmp_path, [clips[0], clips[2]], on_decode_error="raise")


def test_a_file_cut_short_is_noticed_when_copied(tmp_path: Path) -> None:
    """Catches a check that looks at the header and the first frame only."""
    for name in ("a.mp4", "b.mkv"):
        path = write_greys(tmp_path / name, 60)
        if name == "a.mp4":
            path = _with_index_first(path)
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])
        _, facts = written(tmp_path, [Clip(name, video=path)])
        assert [clip_id for clip_id, _ in facts["failures"]] == [name]


def _with_index_first(path: Path) -> Path:
    import av

    out = io.BytesIO(path.read_bytes())
    target = path.with_name("first.mp4")
    with av.open(out) as source, av.open(str(target), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return target


@pytest.mark.parametrize(
    ("name", "extension"), [("a", ".video"), ("a.JSON", ".video"), ("a.b.Mp4", ".mp4"), ("a.weird-one", ".video")]
)
def test_extensions(tmp_path: Path, name: str, extension: str) -> None:
    """Catches media that takes the place of its own JSON, and dots that split a key."""
    path = write_greys(tmp_path / "x.mp4").rename(tmp_path / name)
    members, _ = written(tmp_path, [Clip("a", video=path)])
    assert list(members) == ["000000000.json", f"000000000{extension}"]


@pytest.mark.parametrize("cut", [False, True])
def test_rows_come_back(cut: bool) -> None:
    """Catches a field that is lost between the manifest and the data set."""
    extra = {"url": "u", "media": {"mine": 1}, "frame_times_s": "mine too", "shadowed": [0], "kind": "x"}
    clip = Clip("a", Path("v/ä.mp4"), None, ("x", "y"), "s", "c", 1.0, 2.5, "train", extra)
    row = json.loads(to_row(clip, source="v/ä.mp4", media="frames", cut=cut, frame_times_s=[0.0]))
    assert from_row(row) == (replace(clip, start_s=None, end_s=None) if cut else clip)


def test_lengths_are_packed_without_loss() -> None:
    """Catches clips beyond 4 GiB."""
    lengths = [0, 512, 512 * (2**32 - 1), 512 * 77]
    assert unpack(pack(lengths)).tolist() == lengths


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    """Catches anything of the moment or the place in what is written."""
    manifest = write_set(tmp_path, damaged=True)
    options: dict[str, Any] = {"fps": 5, "clips_per_shard": 2, "max_bad_share": 0.5}
    told: list[tuple[int, int]] = []
    facts = write_shards(manifest, tmp_path / "one", workers=1, progress=lambda *done: told.append(done), **options)
    write_shards(manifest, tmp_path / "two", workers=2, **options)
    first = digests(tmp_path / "one")
    assert first == digests(tmp_path / "two")
    assert sorted(first) == [
        "bad_clips.jsonl", "index.npy", "shard-000000.tar", "shard-000001.tar", "shard-000002.tar", "shards.json",
    ]  # fmt: skip
    assert sum(count for count, _ in told) == 6
    assert {total for _, total in told} == {6}
    assert str(tmp_path) not in (tmp_path / "one" / "shards.json").read_text()
    assert [shard["clips"] for shard in facts["shards"]] == [2, 1, 2]
    write_shards(manifest, tmp_path / "one", **options)
    assert digests(tmp_path / "one") == first


def test_too_many_bad_clips(tmp_path: Path) -> None:
    """Catches a mistyped folder of videos that gives a data set of nothing, and a policy changed half-way."""
    manifest = write_set(tmp_path, damaged=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClipVipError, match=r"6 of 6 clips are bad"):
        write_shards(manifest, tmp_path / "out", videos=tmp_path / "empty")
    with pytest.raises(UsageError, match="different: settings"):
        write_shards(manifest, tmp_path / "out")
    with pytest.raises(ClipVipError, match="not one of 6 clips"):
        write_shards(manifest, tmp_path / "none", videos=tmp_path / "empty", max_bad_share=1)
    write_shards(manifest, tmp_path / "some", max_bad_share=0.5)
    with pytest.raises(VideoDecodeError, match=r"broken\.mp4: mp4 without its index"):
        write_shards(manifest, tmp_path / "some", on_decode_error="raise")
    assert not (tmp_path / "out" / "shards.json").exists()


def test_one_split(tmp_path: Path) -> None:
    """Catches a split that is not kept to."""
    write_picture(tmp_path / "x.png")
    facts = write_shards(write_set(tmp_path), tmp_path / "out", split="train", clips_per_shard=1)
    assert facts["clips"] == 2
    assert facts["settings"]["split"] == "train"
