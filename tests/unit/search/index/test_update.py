"""What a run of adding files plans, without a database; and changes of many videos, with one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipvip.search.index._lance import IDS_PER_CONDITION, split
from clipvip.search.index.maintenance import forget, prune
from clipvip.search.index.records import (
    Changes,
    EncodedVideo,
    KnownContent,
    Skipped,
    VideoFile,
    VideoRecord,
    Write,
)
from clipvip.search.index.schema import Settings
from clipvip.search.index.store import Store
from clipvip.search.index.update import IndexState, plan_changes
from clipvip.video import READING_RULES

SETTINGS = Settings("a model", "0", 4, (2.0,), (1.0,))


def file(name: str, size_bytes: int = 1, root: str = "/videos") -> VideoFile:
    return VideoFile(root, name, size_bytes, 0)


def record(name: str, content: str = "", rules: int = READING_RULES) -> VideoRecord:
    """An indexed file, by default with a content of its own."""
    at = file(name)
    return VideoRecord(at.video_id, at.root, at.path, content or name, 1, 0, 2.0, 64, 48, 1, rules)


def encoded(at: VideoFile, content: str = "", damage: str | None = None, num_segments: int = 1) -> EncodedVideo:
    spans = [(float(i), i + 2.0) for i in range(num_segments)]
    vectors = np.eye(1, 4, dtype=np.float32).repeat(num_segments, axis=0)
    thumbnails: list[bytes | None] = [b"jpeg"] * num_segments
    return EncodedVideo(at, content or at.path, 2.0, 64, 48, spans, vectors, thumbnails, damage=damage)


def state(*videos: VideoRecord, upgrade: bool = False) -> IndexState:
    return IndexState({video.absolute: video for video in videos}, upgrade=upgrade)


def plan(known: IndexState, *outcomes: EncodedVideo | KnownContent | Skipped, gone: str = "") -> Changes:
    """Files called `gone` are gone from disk."""
    return plan_changes(known, outcomes, lambda video: video.path == gone)


def kinds(changes: Changes) -> list[tuple[str, str]]:
    return [(write.video.file.path, write.kind) for write in changes.writes]


def test_new_and_changed_files_are_written() -> None:
    """Catches rows of the old content that stay, under this folder or another, and failures that are kept."""
    other = replace(record("inner/b.mp4"), video_id="of another root")
    known = state(record("a.mp4"), other)
    changes = plan(known, encoded(file("a.mp4", 2)), encoded(file("inner/b.mp4", 2)), encoded(file("new.mp4")))
    assert kinds(changes) == [("a.mp4", "videos"), ("inner/b.mp4", "videos"), ("new.mp4", "videos")]
    assert [write.replaces for write in changes.writes] == [(file("a.mp4").video_id,), ("of another root",), ()]
    assert [each.path for each in changes.solved] == ["a.mp4", "inner/b.mp4", "new.mp4"]
    assert (list(changes.removed), list(changes.failures), list(changes.waiting)) == ([], [], [])


def test_known_content_is_moved_copied_or_as_it_was() -> None:
    """Catches a move that leaves the old place in the index, one file that moves twice, and a touched file encoded."""
    known = state(record("a.mp4", "A"), record("b.mp4", "B"), record("c.mp4", "C"))
    outcomes = [
        KnownContent(file(name), content) for name, content in (("x", "A"), ("y", "A"), ("z", "B"), ("c.mp4", "C"))
    ]
    changes = plan(known, *outcomes, gone="a.mp4")
    assert kinds(changes) == [("x", "moved"), ("y", "copied"), ("z", "copied"), ("c.mp4", "unchanged")]
    assert changes.writes[0].replaces == (file("a.mp4").video_id,)
    assert known.moved == set()  # the plan changes nothing
    known.follow(changes)
    assert known.moved == {file("a.mp4").video_id}
    assert kinds(plan(known, KnownContent(file("w"), "A"), gone="a.mp4")) == [("w", "copied")]


def test_content_that_nobody_has_yet_waits() -> None:
    """Catches a copy that is written before its source, and one that waits for ever."""
    known, copy = state(), KnownContent(file("copy.mp4"), "A")
    changes = plan(known, copy)
    assert (list(changes.writes), list(changes.waiting)) == ([], [copy])
    changes = plan(known, copy, encoded(file("a.mp4"), "A"))
    assert kinds(changes) == [("a.mp4", "videos"), ("copy.mp4", "copied")]
    known.follow(plan(known, encoded(file("a.mp4"), "A")))
    assert kinds(plan(known, copy)) == [("copy.mp4", "copied")]


def test_failures_and_damage_are_noted() -> None:
    """Catches a file that cannot be read any more and stays, and copies of damaged videos that pass for whole."""
    known = state(record("a.mp4"))
    failed = Skipped(Path("/videos/a.mp4"), "no video", file("a.mp4", 2))
    nameless = Skipped(Path("/videos/?"), "its name is not valid UTF-8")
    changes = plan(known, failed, nameless, encoded(file("b.mp4"), "B", damage="cut"), KnownContent(file("c.mp4"), "B"))
    assert list(changes.removed) == [file("a.mp4").video_id]
    assert [(each.path, why) for each, why in changes.failures] == [
        ("a.mp4", "no video"), ("b.mp4", "cut"), ("c.mp4", "cut"),
    ]  # fmt: skip
    known.follow(changes)
    later = plan(known, KnownContent(file("d.mp4"), "B"))
    assert [(each.path, why) for each, why in later.failures] == [("d.mp4", "cut")]
    assert not plan(known, encoded(file("b.mp4", 3), "B"), KnownContent(file("d.mp4"), "B")).failures  # whole now


def test_an_upgrade_keeps_what_it_cannot_read() -> None:
    """Catches an upgrade that deletes readable segments, and one that copies the old ones it is to replace."""
    known = state(record("a.mp4", "A", rules=1), upgrade=True)
    assert not known.is_unchanged(file("a.mp4"))
    assert plan(known, Skipped(Path("/videos/a.mp4"), "no video", file("a.mp4"))) == plan(known)
    changed = plan(known, Skipped(Path("/videos/a.mp4"), "no video", file("a.mp4", 2)))
    assert list(changed.removed) == [file("a.mp4").video_id]
    assert list(plan(known, KnownContent(file("b.mp4"), "A")).waiting)


@pytest.fixture
def many(tmp_path: Path) -> tuple[Store, Path]:
    """An index of 3,000 videos of a folder in which one is left."""
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "0.mp4").touch()
    store = Store.create(str(tmp_path / "index"), SETTINGS)
    store.register([str(folder)])
    files = [file(f"{number}.mp4", root=str(folder)) for number in range(3000)]
    store.apply(Changes([Write(encoded(at, num_segments=2)) for at in files]))
    assert (store.segments.count_rows(), store.thumbnails.count_rows()) == (6000, 6000)
    return store, folder


class Conditions:
    """A LanceDB table that notes how many values the conditions of its deletions name."""

    def __init__(self, table: object, sizes: list[int]):
        self._table, self._sizes = table, sizes

    def __getattr__(self, name: str) -> object:
        return getattr(self._table, name)

    def delete(self, where: str) -> object:
        self._sizes.append(where.count(",") + 1)
        return self._table.delete(where)  # type: ignore[attr-defined]


def test_thousands_of_videos_are_removed_a_few_hundred_at_a_time(many: tuple[Store, Path]) -> None:
    """Catches an SQL condition that names all videos, and thumbnails or videos that stay."""
    store, folder = many
    sizes: list[int] = []
    for name in ("segments", "thumbnails"):
        setattr(store, name, Conditions(getattr(store, name), sizes))
    assert prune(store, force=True).removed == 2999
    assert len(sizes) == 2 * 6
    assert max(sizes) <= IDS_PER_CONDITION + 2  # split_part has commas of its own
    assert (store.segments.count_rows(), store.thumbnails.count_rows()) == (2, 2)
    assert [video.path for video in store.videos().values()] == ["0.mp4"]
    assert forget(store, str(folder)).removed == 1
    assert (store.segments.count_rows(), store.thumbnails.count_rows(), store.root_names()) == (0, 0, [])


def test_a_changed_video_of_thousands_of_segments(tmp_path: Path) -> None:
    """Catches segments and thumbnails of an older content that stay where there are more than one condition names."""
    store, at = Store.create(str(tmp_path / "index"), SETTINGS), file("long.mp4")
    store.apply(Changes([Write(encoded(at, "old", num_segments=2500))]))
    store.apply(Changes([Write(encoded(at, "new", num_segments=3), (at.video_id,))]))
    assert (store.segments.count_rows(), store.thumbnails.count_rows()) == (3, 3)
    assert store.videos()[at.video_id].content_hash == "new"


def test_parts_of_a_condition() -> None:
    """Catches a value that is left out at a boundary."""
    values = [str(number) for number in range(2 * IDS_PER_CONDITION + 1)]
    parts = split(values)
    assert [len(part) for part in parts] == [IDS_PER_CONDITION, IDS_PER_CONDITION, 1]
    assert [value for part in parts for value in part] == values
    assert split([]) == []
