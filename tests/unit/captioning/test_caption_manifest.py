"""Manifests with captions: the right frame of the right clip, nothing lost on the way, failures told."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from clipvip.captioning import caption_manifest
from clipvip.captioning import task as task_module
from clipvip.captioning.manifest import CaptionFacts, bad_list, work_folder
from clipvip.captioning.task import Asked, CaptionTask, middle_frame
from clipvip.data.manifest import read_manifest
from clipvip.errors import CheckpointError, ClipVipError, ManifestError, UsageError
from clipvip.records import Clip
from helpers_captioners import GreyReader
from helpers_shards import numbers, write_greys, write_set
from helpers_video import write_frames


def rows(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of a manifest by clip_id, in their order."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["clip_id"]: line for line in lines}


def run_task(
    captioner: GreyReader, clips: list[Clip], path: Path, lines: dict[str, Any] | None = None
) -> tuple[list[dict[str, Any]], list[Any], int]:
    """The lines, the failures, and how many clips the beats told of; `lines` are there from an earlier attempt."""
    beats: list[int] = []
    task = CaptionTask(captioner, "videos")
    asked = [Asked(clip, (lines or {}).get(clip.clip_id)) for clip in clips]
    facts = task.run(asked, path, lambda count=1: beats.append(count))
    return [json.loads(line) for line in path.read_text().splitlines()], facts["failures"], sum(beats)


def test_the_middle_frame(tmp_path: Path) -> None:
    """Catches the first frame or the last, a frame beside the middle, and one of the video instead of the clip."""
    video = write_greys(tmp_path / "a.mp4", 20)
    for start_s, end_s, expected in ((None, None, 10), (0.5, 1.2, 8), (1.5, None, 17), (0.0, 0.1, 0)):
        frame = middle_frame(Clip("a", video=video, start_s=start_s, end_s=end_s))
        assert frame.shape == (48, 64, 3)
        assert numbers([frame]) == [expected]
    odd = write_greys(tmp_path / "b.mp4", 7)
    assert numbers([middle_frame(Clip("b", video=odd))]) == [3]
    assert middle_frame(Clip("c", video=write_frames(tmp_path / "frames", 21)))[0, 0].tolist() == [10, 10, 10]


def test_lines_and_failures_of_a_part(tmp_path: Path) -> None:
    """Catches a caption given to another clip because one before it is bad, and clips that no beat told of."""
    videos = [write_greys(tmp_path / f"{i}.mp4", 2 * i) for i in range(1, 9)]
    clips = [Clip(f"clip{i}", video=video) for i, video in enumerate(videos, 1)]
    broken = write_greys(tmp_path / "broken.mp4")
    broken.write_bytes(broken.read_bytes()[:1000])
    clips.insert(2, Clip("broken", video=broken))
    clips.insert(5, Clip("gone", video=tmp_path / "gone.mp4"))
    lines, failures, told = run_task(GreyReader(silent_on=(6, 7)), clips, tmp_path / "part")
    assert lines == [
        {"clip_id": f"clip{i}", "caption": f"frame {i}", "revision": "1"} for i in (1, 2, 3, 4, 5, 8)
    ]  # fmt: skip
    assert [name for name, _ in failures] == ["broken", "gone", "clip6", "clip7"]
    assert "broken.mp4" in failures[0][1]
    assert [reason for _, reason in failures[2:]] == ["the captioner said nothing of use: '...'", "no words"]
    assert told == len(clips)
    known = {f"clip{i}": {"clip_id": f"clip{i}", "caption": "seen", "revision": "1"} for i in (1, 7)}
    trace = tmp_path / "trace"
    lines, failures, told = run_task(GreyReader(trace=trace), clips, tmp_path / "part", known)
    assert [line["caption"] for line in lines] == ["seen", *(f"frame {i}" for i in (2, 3, 4, 5, 6)), "seen", "frame 8"]
    assert ([name for name, _ in failures], told) == (["broken", "gone"], len(clips))
    assert len(trace.read_text().splitlines()) == 6
    assert run_task(GreyReader(), [], tmp_path / "part") == ([], [], 0)


@dataclass(frozen=True)
class SlowToOpen(GreyReader):
    """Counts how often it is opened, in a file."""

    def open(self) -> GreyReader:
        """And it takes its time."""
        assert self.trace is not None
        with self.trace.open("a") as trace:
            trace.write("opened\n")
        return GreyReader()


def test_the_model_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a model loaded for every part; a worker killed while it waits for a download."""
    clips = [Clip("a", video=write_greys(tmp_path / "a.mp4", 2))]
    captioner = SlowToOpen(trace=tmp_path / "trace")
    monkeypatch.setattr(task_module, "wait", lambda futures, timeout: _NotYet(futures))
    for _ in range(2):
        _, _, told = run_task(captioner, clips, tmp_path / "part")
        assert told == 1
    assert (tmp_path / "trace").read_text() == "opened\n"


class _NotYet:
    """Says once that nothing is done yet, then waits."""

    asked = 0

    def __init__(self, futures: list[Any]):
        _NotYet.asked += 1
        self.done = _NotYet.asked % 2 == 0 and [future.result() for future in futures]


def test_a_manifest_with_captions(tmp_path: Path) -> None:
    """Catches lost keys, another order, captions of others overwritten, and paths that lead nowhere from OUT."""
    manifest = write_set(tmp_path, damaged=True)
    (tmp_path / "deep").mkdir()
    out = tmp_path / "deep" / "out.jsonl"
    told: list[tuple[int, int]] = []
    facts = caption_manifest(
        manifest, out, GreyReader(), part_size=2, progress=lambda count, total: told.append((count, total))
    )
    before, after = rows(manifest), rows(out)
    assert list(after) == list(before)
    assert {name: row.get("caption") for name, row in after.items()} == {
        "whole": "frame 10", "mkv": "seen", "broken": None, "part": "frame 8", "tail": "frame 17",
        "picture": after["picture"]["caption"],
    }  # fmt: skip
    assert after["picture"]["caption"].startswith("frame ")
    about = {"caption_model": "grey-reader", "caption_revision": "1"}
    for name, row in after.items():
        added = {} if name in ("mkv", "broken") else {"caption": row["caption"], **about}
        media = {key: f"../{before[name][key]}" for key in ("video", "image") if key in before[name]}
        assert row == before[name] | media | added
    assert all(clip.path.exists() for clip in read_manifest(out))
    (failure,) = facts.failures.items()
    assert failure[0] == "broken"
    assert facts == CaptionFacts(6, 4, 1, "grey-reader", dict([failure]))
    assert [json.loads(line) for line in bad_list(out).read_text().splitlines()] == [
        {"clip_id": "broken", "reason": failure[1]}
    ]
    assert sum(count for count, _ in told) == 5
    assert {total for _, total in told} == {5}


def test_a_split_and_captions_written_anew(tmp_path: Path) -> None:
    """Catches clips of other splits captioned, and the caption of one model under the name of another."""
    manifest = write_set(tmp_path, damaged=True)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    facts = caption_manifest(manifest, first, GreyReader(), split="train")
    assert (facts.clips, facts.captioned, facts.kept) == (2, 2, 0)
    assert {name for name, row in rows(first).items() if "caption_model" in row} == {"whole", "picture"}
    assert rows(first)["mkv"]["caption"] == "seen"

    critic = GreyReader(silent_on=(10,), name="critic", revision="2")
    facts = caption_manifest(first, second, critic, overwrite=True)
    assert (facts.clips, facts.captioned, facts.kept) == (6, 3, 0)  # whole and mkv have frame 10 in the middle
    assert sorted(facts.failures) == ["broken", "mkv", "whole"]
    after = rows(second)
    for name in ("whole", "mkv", "broken"):
        assert not {"caption", "caption_model", "caption_revision"} & set(after[name])
    assert {after[name]["caption_model"] for name in ("part", "tail", "picture")} == {"critic"}


def test_the_same_command_again(tmp_path: Path) -> None:
    """Catches work done twice, also beside a bad clip; failures that are never tried again, or listed for ever."""
    manifest, out = write_set(tmp_path, damaged=True), tmp_path / "out.jsonl"
    captioner = GreyReader(trace=tmp_path / "trace")
    assert caption_manifest(manifest, out, captioner, part_size=4).captioned == 4
    whole = out.read_text()
    assert len((tmp_path / "trace").read_text().splitlines()) == 4
    out.unlink()
    caption_manifest(manifest, out, captioner, part_size=4)
    assert out.read_text() == whole
    assert len((tmp_path / "trace").read_text().splitlines()) == 4
    shutil.copy(tmp_path / "media" / "a.mp4", tmp_path / "media" / "broken.mp4")
    facts = caption_manifest(manifest, out, captioner, part_size=4)
    assert (facts.captioned, facts.failures) == (5, {})
    assert rows(out)["broken"]["caption"] == "frame 10"
    assert len((tmp_path / "trace").read_text().splitlines()) == 5
    assert not bad_list(out).exists()
    with pytest.raises(UsageError, match="holds another job"):
        caption_manifest(manifest, out, replace(captioner, revision="2"), part_size=4)


def test_nothing_to_do(tmp_path: Path) -> None:
    """Catches an error, or a model loaded, where all clips have a caption."""
    manifest, out = write_set(tmp_path), tmp_path / "out.jsonl"
    manifest.write_text('{"clip_id": "a", "video": "media/a.mp4", "caption": "mine"}\n')
    captioner = SlowToOpen(trace=tmp_path / "trace")
    assert caption_manifest(manifest, out, captioner) == CaptionFacts(1, 0, 1, "grey-reader", {})
    assert rows(out) == rows(manifest)
    assert not (tmp_path / "trace").exists()


@dataclass(frozen=True)
class Missing(GreyReader):
    """A captioner that cannot be loaded."""

    def open(self) -> GreyReader:
        """Never."""
        raise CheckpointError("no such captioner")


def test_what_stops_it(tmp_path: Path) -> None:
    """Catches a manifest without captions that looks like one with them, and an old one that is gone."""
    manifest, out = write_set(tmp_path, damaged=True), tmp_path / "out.jsonl"
    out.write_text("old")
    with pytest.raises(CheckpointError, match="no such captioner"):
        caption_manifest(manifest, out, Missing())
    with pytest.raises(ClipVipError, match=r"1 of 5 clips are bad, more than 5.0%; the first is broken: .*broken.mp4"):
        caption_manifest(manifest, tmp_path / "strict.jsonl", GreyReader(), max_bad_share=0.05)
    everything = GreyReader(silent_on=tuple(range(-2, 40)))
    with pytest.raises(ClipVipError, match="not one of 5 clips could be captioned; the first is whole"):
        caption_manifest(manifest, tmp_path / "mute.jsonl", everything)
    assert len(bad_list(tmp_path / "mute.jsonl").read_text().splitlines()) == 5
    assert not (tmp_path / "mute.jsonl").exists()
    for wrong in (manifest, tmp_path, tmp_path / "no" / "out.jsonl"):
        with pytest.raises(UsageError, match="--out"):
            caption_manifest(manifest, wrong, GreyReader())
        assert not work_folder(wrong).exists()
    manifest.write_text(manifest.read_text() * 2)
    with pytest.raises(ManifestError, match="already used in line"):
        caption_manifest(manifest, tmp_path / "twice.jsonl", GreyReader())
    assert out.read_text() == "old"


def test_a_manifest_that_changes_on_the_way(tmp_path: Path) -> None:
    """Catches captions of the clips that stood there before."""
    manifest, out = write_set(tmp_path), tmp_path / "out.jsonl"

    def meddle(count: int, total: int) -> None:
        with manifest.open("a") as file:
            file.write('{"clip_id": "new", "video": "media/a.mp4"}\n')

    with pytest.raises(ManifestError, match="was changed while it was captioned"):
        caption_manifest(manifest, out, GreyReader(), progress=meddle)
    assert not out.exists()
