"""Status and check of an index."""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import clipvip
from clipvip.data.manifest import write_manifest
from clipvip.embedding_sets import encode_manifest, open_embeddings
from clipvip.errors import SearchIndexError
from clipvip.records import Clip
from clipvip.search import Filters, Library, Query, Term
from clipvip.search.index.schema import THUMBNAILS
from helpers_index import assert_same
from helpers_model import write_model
from helpers_video import write_video, write_videos


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return clipvip.load(write_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture
def library(model, tmp_path):
    videos = write_videos(tmp_path / "videos", 40, 40, 40, 40)
    (videos / "bad.mp4").write_text("no video")
    library = Library(tmp_path / "index", model, windows_s=2.0)
    library.add(videos)
    return library


def test_status(library, tmp_path):
    """Catches failures that nobody can find again, and folders of which nobody sees that they are gone."""
    status = library.status()
    assert (status.videos, status.segments) == (4, 12)
    assert status.hours == pytest.approx(16 / 3600)
    [root] = status.roots
    assert (root.root, root.videos, root.segments) == (str(tmp_path / "videos"), 4, 12)
    assert (root.there, root.added) == (True, True)
    [failure] = status.failures
    assert (failure.path, "not a media file" in failure.reason) == ("bad.mp4", True)
    assert status.num_bytes == sum(path.stat().st_size for path in (tmp_path / "index").rglob("*") if path.is_file())
    assert (status.settings.fingerprint, status.settings.model) == (library.encoder.fingerprint, library.encoder.source)
    library.add(write_video(tmp_path / "alone.mp4", 8))
    added = {root.root: root.added for root in library.status().roots}
    assert added == {str(tmp_path): False, str(tmp_path / "videos"): True}


def rows_of(library, name):
    return library.store.segments.search().where(f"path = '{name}'").to_arrow()


def test_a_check_finds_and_mends(library, model, tmp_path):
    """Catches damage that stays unseen, repairs that lose more than the damage, and checks that come to no rest."""
    assert library.verify().problems == []
    segments, thumbnails = library.store.segments, library.store.thumbnails
    segments.add(rows_of(library, "0.mp4").slice(0, 1))
    damaged = rows_of(library, "1.mp4")
    segments.delete("path = '1.mp4'")
    vectors = damaged["vector"].combine_chunks().flatten().to_numpy() * 2
    column = pa.FixedSizeListArray.from_arrays(vectors.astype(np.float32), 16)
    segments.add(damaged.set_column(damaged.schema.get_field_index("vector"), "vector", column))
    lost = rows_of(library, "2.mp4")["segment_id"][1].as_py()
    segments.delete(f"segment_id = '{lost}'")
    bare = rows_of(library, "3.mp4")["segment_id"].to_pylist()
    thumbnails.delete(f"segment_id IN ('{bare[0]}', '{bare[1]}')")
    thumbnails.add(pa.Table.from_pylist([{"segment_id": "of nothing", "jpeg": b"x"}], schema=THUMBNAILS))

    unmended = library.verify(repair=False)
    assert not unmended.sound
    found = library.verify()
    assert [problem.what for problem in found.problems] == [problem.what for problem in unmended.problems]
    told = "\n".join(f"{problem.what}: {problem.repaired}" for problem in found.problems)
    for name, what in (
        ("1.mp4", "a vector that is not of unit norm: taken out"),
        ("2.mp4", "2 of 3 segments: taken out"),
        ("3.mp4", "2 segments without a thumbnail, or with a damaged one: made again"),
    ):
        assert f"{name}: {what}" in told
    assert "1 segments, thumbnails or folders that are there twice: one of each is kept" in told
    assert "thumbnails without a segment: deleted" in told
    assert found.removed == 2
    assert found.sound
    assert library.verify().problems == []
    assert library.add().videos == 2
    fresh = Library(tmp_path / "fresh", model, windows_s=2.0)
    fresh.add(tmp_path / "videos")
    assert_same(library, fresh)


def test_a_check_tells_what_is_left_to_the_user(library, tmp_path):
    """Catches a check that passes over files that are gone or others now, or takes them out unasked."""
    (tmp_path / "videos" / "0.mp4").unlink()
    os.utime(tmp_path / "videos" / "1.mp4", (1, 1))
    found = library.verify()
    assert not found.sound
    assert {Path(problem.what.split(": ")[0]).name for problem in found.problems} == {"0.mp4", "1.mp4"}
    assert library.status().videos == 4
    library.add()
    library.prune()
    assert library.verify().problems == []


def test_what_cannot_be_read_is_not_gone(library, tmp_path):
    """Catches vectors thrown away because a disk failed, and a prune that is advised and does nothing."""
    videos = tmp_path / "videos"
    (videos / "sub").mkdir()
    for name in ("0.mp4", "1.mp4"):
        (videos / name).rename(videos / "sub" / name)
    library.add()
    library.prune()
    away = tmp_path / "away"
    away.mkdir()
    for name in ("0.mp4", "1.mp4"):
        (videos / "sub" / name).rename(away / name)
    (videos / "sub").rmdir()
    (videos / "sub").symlink_to("sub")  # whatever is asked for in there, the answer is an error
    (videos / "2.mp4").unlink()
    (videos / "2.mp4").symlink_to("nowhere")
    (away / "0.mp4").rename(videos / "restored.mp4")
    (videos / "3.mp4").unlink()

    told = {problem.what.removeprefix(f"{videos}/") for problem in library.verify().problems}
    assert told == {
        "sub/0.mp4: cannot be read now; it stays",
        "sub/1.mp4: cannot be read now; it stays",
        "2.mp4: cannot be read now; it stays",
        "3.mp4: no such file any more (clipvip library prune takes it out)",
    }
    summary = library.add(videos / "restored.mp4")
    assert (summary.copied, summary.moved) == (1, 0)
    assert library.prune().removed == 1
    left = {video.path for video in library.store.videos().values()}
    assert left == {"sub/0.mp4", "sub/1.mp4", "2.mp4", "restored.mp4"}


def test_a_check_leaves_the_clips_of_an_embedding_set(library, model, tmp_path):
    """Catches vectors taken out because their clips happen to be some of the windows, and not all of them."""
    path, moved = tmp_path / "videos" / "0.mp4", tmp_path / "videos" / "moved.mp4"
    spans = [(0.0, 2.0), (2.0, 4.0)]  # two of the three windows of 2 s every second
    clips = [Clip(clip_id=str(start), video=path, start_s=start, end_s=end) for start, end in spans]
    write_manifest(tmp_path / "clips.jsonl", clips)
    encode_manifest(tmp_path / "clips.jsonl", tmp_path / "set", model=str(model.source), device="cpu")
    other = Library(tmp_path / "other", model, windows_s=2.0)
    other.add_embeddings(open_embeddings(tmp_path / "set"))
    for _ in range(2):
        path.rename(moved)
        other.add(moved)
        other.prune()
        path, moved = moved, path
        assert all("thumbnail" in problem.what for problem in other.verify().problems)  # the first time
        assert other.verify().problems == []
        found = {(row["path"], row["start_s"], row["end_s"]) for row in other.store.segments.to_arrow().to_pylist()}
        assert found == {(path.name, *span) for span in spans}
    other.add(tmp_path / "videos")
    assert other.verify().problems == []
    path.write_bytes((tmp_path / "videos" / "1.mp4").read_bytes())  # changed: now it has windows as all do
    other.add(tmp_path / "videos")
    assert other.verify().problems == []
    assert other.status().segments == 12


def test_the_size_of_an_index_that_is_written_to(library, tmp_path):
    """Catches a status that fails because a file went between two looks at it."""
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            folder = tmp_path / "index" / "busy"
            folder.mkdir()
            for number in range(50):
                (folder / str(number)).touch()
            shutil.rmtree(folder)

    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(write)
        try:
            for _ in range(200):
                assert library.store.num_bytes() > 0
        finally:
            ended.set()
        writing.result()


def test_an_empty_index_is_sound(library, tmp_path):
    """Catches a check that fails where there is nothing to check."""
    library.forget(tmp_path / "videos")
    found = library.verify()
    assert (found.videos, found.segments, found.problems) == (0, 0, [])


@pytest.mark.parametrize(
    ("name", "looks"),
    [
        ("segments", ["status", "verify", "prune", "search", "like"]),
        ("thumbnails", ["thumbnail"]),
        ("failures", ["status", "prune"]),
        ("roots", ["status", "root"]),
    ],
)
def test_damaged_tables_are_told(library, tmp_path, name, looks):
    """Catches LanceDB's own tracebacks where the files of an index are damaged, in looks at it and in searches."""
    (tmp_path / "videos" / "broken.mp4").write_text("no video")
    library.add()
    segment_id = library.store.segments.to_arrow()["segment_id"][0].as_py()
    for path in Path(library.uri, f"{name}.lance", "data").iterdir():
        path.write_bytes(b"junk")
    damaged = Library(library.uri, library.encoder)
    do = {
        "status": damaged.status,
        "verify": damaged.verify,
        "prune": damaged.prune,
        "search": lambda: damaged.search("a dog"),
        "like": lambda: damaged.search(Query(terms=(Term(segment=segment_id),))),
        "root": lambda: damaged.search("a dog", filters=Filters(root=str(tmp_path / "videos"))),
        "thumbnail": lambda: damaged.thumbnail(segment_id),
    }
    for look in looks:
        with pytest.raises(SearchIndexError, match=r"index: cannot be read \(") as told:
            do[look]()
        assert "\n" not in str(told.value)


def test_what_is_left_of_an_index_is_not_made_anew(library, tmp_path):
    """Catches an index copied in part that is taken for none, and then overwritten with an empty one."""
    shutil.rmtree(Path(library.uri, "segments.lance", "_versions"))
    for look in (lambda: Library(library.uri), lambda: Library(library.uri, library.encoder).add(tmp_path / "videos")):
        with pytest.raises(SearchIndexError, match="copied in part, or is damaged"):
            look()


def test_an_index_of_an_older_clipvip_is_told(library, tmp_path):
    """Catches a traceback for an index that this version cannot read."""
    table = library.store.segments
    metadata = json.dumps({"schema_version": 1}).encode()
    rows = table.to_arrow().replace_schema_metadata({b"clipvip": metadata})
    library.store.database.create_table("segments", rows, mode="overwrite")
    with pytest.raises(SearchIndexError, match=r"an index of schema 1, this clipvip reads 2 to 3"):
        Library(tmp_path / "index").status()


def test_folders_are_named_in_any_form_of_unicode(model, tmp_path):
    """Catches a folder of a Mac, whose é is two code points, that neither a filter nor `forget` finds."""
    videos = write_videos(tmp_path / "cafe\u0301 videos", 12)
    library = Library(tmp_path / "index", model, windows_s=2.0)
    library.add(videos)
    typed = tmp_path / "caf\u00e9 videos"
    assert len(library.search("a dog", filters=Filters(root=typed))) == 1
    assert library.forget(typed).removed == 1
    library.add(videos)
    both = write_videos(typed, 15)
    library.add(both)
    [hit] = library.search("a dog", filters=Filters(root=typed), merge=False)
    assert hit.video.parent == typed
    assert library.forget(typed).removed == 1
    assert library.roots == [str(videos)]
