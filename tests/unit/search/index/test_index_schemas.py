"""Indexes of earlier schemas, and videos that were read by earlier rules."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import clipvip
from clipvip.embedding_sets import encode_manifest, open_embeddings
from clipvip.encode import Encoder
from clipvip.errors import SearchIndexError
from clipvip.search import Library
from clipvip.search.index import schema, store
from clipvip.search.index.records import Changes, EncodedVideo, VideoFile, Write
from clipvip.video import READING_RULES, Scales
from helpers_index import contents
from helpers_serve import served
from helpers_stored import STORED_FINGERPRINT, unpack_stored
from helpers_video import write_video


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return unpack_stored(tmp_path / "stored")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return clipvip.load(unpack_stored(tmp_path_factory.mktemp("stored")) / "model", device="cpu")


@pytest.fixture
def old(stored: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Library:
    """An index of schema 2 whose videos are there: the rows that clipvip 0.1 would have written for them."""
    library = Library(stored / "mine", encoder, windows_s=2.0)
    library.add(stored / "videos")
    rows = library.store.segments.to_arrow().drop_columns(list(schema.NEW_COLUMNS))
    settings = json.loads(rows.schema.metadata[b"clipvip"]) | {"schema_version": 2}
    rows = rows.replace_schema_metadata({"clipvip": json.dumps(settings)})
    library.store.database.create_table("segments", rows, mode="overwrite")
    return Library(stored / "mine", encoder)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "search-cache" not in path.parts
    }


def columns_of(library: Library) -> list[str]:
    return library.store.database.open_table("segments").schema.names


def rules_of(library: Library) -> dict[str, int]:
    return {video.path: video.reading_rules for video in library.store.videos().values()}


def test_an_old_index_is_read_without_being_changed(stored, encoder):
    """Catches a search, or a look at the status, after which the previous clipvip cannot use its index any more."""
    shutil.rmtree(stored / "index" / "background.lance")  # a search with a rate of false alarms stores new ones
    before = files_of(stored / "index")
    library = Library(stored / "index", encoder)
    assert encoder.fingerprint == STORED_FINGERPRINT
    hits = library.search("a red circle", merge=False)
    assert len(hits) == 10
    status = library.status()
    assert (status.videos, status.segments, len(status.failures)) == (3, 11, 1)
    assert (status.num_older_videos, status.num_older_segments) == (3, 11)
    assert status.settings.schema_version == 2
    video_id = hits.hits[0].video_id
    assert [segment.start_s for segment in library.segments_of(video_id)] == [0, 1, 2, 3, 4]
    assert library.timeline(video_id, "a red circle")
    assert library.thumbnail(hits.hits[0].segment_id)
    library.verify(repair=False)
    assert files_of(stored / "index").keys() - before.keys() <= {".lock"}
    library.search("a red circle", false_alarm=0.5)
    assert "reading_rules" not in columns_of(library)


def test_an_old_index_is_served_without_being_changed(stored):
    """Catches a server that cannot start on an old index, or upgrades it behind the back of another clipvip."""
    with served(stored) as client:
        assert client.get("/api/status").json()["videos"] == 3
        hit = client.get("/api/search", params={"q": "a red circle"}).json()["results"][0]
        video = client.get(f"/api/videos/{hit['video_id']}")
        assert (video.status_code, video.json()["there"]) == (200, False)
    assert "reading_rules" not in columns_of(Library(stored / "index"))


def test_an_old_index_on_a_read_only_disk_answers(stored, encoder, monkeypatch):
    """Catches an old index on a disk or an image that cannot be written to, which nobody can search any more."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(store, "write_lock", refuse)
    monkeypatch.setattr("clipvip.search.index.mmap_cache.locked", refuse)
    library = Library(stored / "index", encoder)
    assert len(library.search("a red circle", merge=False)) == 10
    assert library.status().num_older_videos == 3


def test_the_first_write_upgrades_the_schema(stored, encoder, caplog, monkeypatch):
    """Catches an upgrade that loses rows or an approximate index, runs twice, or happens in silence."""
    monkeypatch.setattr("clipvip.search.index._lance.EXACT_ROWS", 5)
    library = Library(stored / "index", encoder)
    from lancedb.index import BTree

    library.store.segments.create_index("path", config=BTree())
    rows, vectors, thumbnails, failures = contents(library)
    with caplog.at_level(logging.WARNING, "clipvip"):
        library.prune()
        library.set_background([f"text {i}" for i in range(20)])
    [record] = caplog.records
    assert record.getMessage() == f"{stored / 'index'}: upgraded from schema 2 to 3"
    now, now_vectors, now_thumbnails, now_failures = contents(library)
    assert now == [row | {"reading_rules": None, "num_windows": None} for row in rows]
    assert library.store.segments.count_rows("checksum IS NULL") == 11
    np.testing.assert_array_equal(now_vectors, vectors)
    assert (now_thumbnails, now_failures) == (thumbnails, failures)
    indices = library.store.segments.list_indices()
    assert [(index.columns, index.num_unindexed_rows) for index in indices] == [(["path"], 0)]
    again = Library(stored / "index", encoder)
    assert (again.settings.schema_version, library.settings.schema_version) == (3, 3)
    assert again.status().num_older_segments == 11
    new = write_video(stored / "videos" / "new.mp4", 30, grain=8)
    assert again.add(new).videos == 1
    assert rules_of(again) == {"a.mp4": 1, "copy.mp4": 1, "holiday/b.mp4": 1, "new.mp4": READING_RULES}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_beside_the_upgrade(stored, encoder, monkeypatch, moment):
    """Catches an index that is neither of the old schema nor of the new one."""
    library = Library(stored / "index", encoder)
    whole = contents(library)[0]
    with monkeypatch.context() as patched:
        table = type(library.store.segments)
        if moment == "before":
            patched.setattr(table, "add_columns", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        else:
            patched.setattr(store, "logger", None)  # the step after the commit
        with pytest.raises((KeyboardInterrupt, AttributeError)):
            library.prune()
    again = Library(stored / "index", encoder)
    assert again.settings.schema_version == (2 if moment == "before" else 3)
    assert len(again.search("a red circle", merge=False)) == 10
    again.prune()
    assert [row["segment_id"] for row in contents(again)[0]] == [row["segment_id"] for row in whole]
    assert Library(stored / "index").settings.schema_version == 3


def test_an_index_of_a_newer_clipvip_is_refused(stored, encoder):
    """Catches rows of a newer schema that are read, or overwritten, as if nothing was."""
    library = Library(stored / "index", encoder)
    library.store.segments.add_columns(pa.schema({"mood": pa.int32()}))
    with pytest.raises(SearchIndexError, match=r"made by a newer clipvip \(with columns mood\); upgrade clipvip$"):
        Library(stored / "index")
    rows = library.store.segments.to_arrow()
    newer = {"clipvip": json.dumps({"schema_version": 7})}
    library.store.database.create_table("segments", rows.replace_schema_metadata(newer), mode="overwrite")
    with pytest.raises(SearchIndexError, match=r"made by a newer clipvip \(schema 7\); upgrade clipvip$"):
        Library(stored / "index")


def test_only_what_is_older_is_encoded_again(old, stored, encoder, monkeypatch):
    """Catches an upgrade that encodes everything, or copies the old vectors of a file with the same content."""
    write_video(stored / "videos" / "new.mp4", 30, grain=8)
    assert old.add(stored / "videos").videos == 1
    table = old.store.segments  # vectors of the older rules
    table.update(where="reading_rules IS NULL", values={"vector": [1.0] + 15 * [0.0]})
    encoded = Counter[str]()
    encode = encoder.encode_pixels
    monkeypatch.setattr(encoder, "encode_pixels", lambda pixels: encoded.update(n=len(pixels)) or encode(pixels))
    summary = old.upgrade()
    assert (summary.videos, summary.copied, summary.unchanged, summary.skipped) == (2, 1, 0, [])
    assert encoded["n"] == summary.segments == 6
    assert set(rules_of(old).values()) == {READING_RULES}
    rows, vectors, *_ = contents(old)
    parts = [(Path(row["root"], row["path"]), row["start_s"], row["end_s"]) for row in rows]
    np.testing.assert_allclose(vectors, encoder.encode_videos(parts), atol=1e-5)
    assert all(row["num_windows"] == len([1 for r in rows if r["path"] == row["path"]]) for row in rows)
    status = old.status()
    assert (status.num_older_videos, status.num_older_segments, len(status.failures)) == (0, 0, 1)
    assert old.verify().problems == []
    assert old.upgrade().videos == 0


def test_an_interrupted_upgrade_continues(old, monkeypatch):
    """Catches videos that are lost when an upgrade is killed, and ones that are encoded twice."""
    monkeypatch.setattr("clipvip.search.index.update.COMMIT_FILES", 1)

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        old.upgrade(on_progress=stop)
    library = Library(old.uri, old.encoder)
    left = Counter(rules_of(library).values())
    assert left.total() == 3
    assert 1 in left
    summary = library.upgrade()
    assert summary.videos + summary.copied == left[1]
    assert set(rules_of(library).values()) == {READING_RULES}


def test_an_upgrade_of_files_that_are_gone_changed_or_damaged(old, stored):
    """Catches rows that an upgrade deletes although the file cannot be read at the moment, or is not mounted."""
    videos = stored / "videos"
    (videos / "a.mp4").unlink()
    write_video(videos / "copy.mp4", 30, grain=8)
    state = (videos / "holiday" / "b.mp4").stat()
    (videos / "holiday" / "b.mp4").write_bytes(bytes(state.st_size))
    os.utime(videos / "holiday" / "b.mp4", ns=(state.st_mtime_ns,) * 2)
    summary = old.upgrade()
    assert (summary.videos, summary.missing, [skip.video.name for skip in summary.skipped]) == (1, 1, ["b.mp4"])
    assert rules_of(old) == {"a.mp4": 1, "copy.mp4": READING_RULES, "holiday/b.mp4": 1}
    shutil.move(videos, stored / "elsewhere")
    [skipped] = old.upgrade().skipped
    assert (skipped.video, "missing or empty" in skipped.reason) == (videos, True)
    assert old.status().videos == 3


def test_embedding_sets_record_the_rules_they_were_read_by(stored, encoder, tmp_path, monkeypatch):
    """Catches old vectors that count as current because they went through an embedding set."""
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text(json.dumps({"clip_id": "a", "video": str(stored / "videos" / "a.mp4"), "captions": ["x"]}))
    facts = encode_manifest(manifest, tmp_path / "set", model=str(stored / "model"), device="cpu")
    assert facts.reading_rules == READING_RULES
    Library(tmp_path / "new", windows_s=2.0).add_embeddings(open_embeddings(tmp_path / "set"))
    assert Library(tmp_path / "new").status().num_older_videos == 0
    written = json.loads((tmp_path / "set" / "embeddings.json").read_text())
    del written["reading_rules"]
    (tmp_path / "set" / "embeddings.json").write_text(json.dumps(written))
    library = Library(tmp_path / "old", windows_s=2.0)
    library.add_embeddings(open_embeddings(tmp_path / "set"))
    assert library.status().num_older_videos == 1
    [skipped] = library.upgrade().skipped
    assert "encode that set again" in skipped.reason
    assert library.status().num_older_videos == 1


def test_an_index_of_an_embedding_set_has_windows_as_long_as_the_clips_of_the_training(stored, tmp_path):
    """Catches windows of 12 s for a model of short clips, and a set of an older clipvip that cannot be read."""
    config = tmp_path / "model" / "config.json"
    shutil.copytree(stored / "model", tmp_path / "model")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"clip_duration_s": 1.5}))
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text(json.dumps({"clip_id": "a", "video": str(stored / "videos" / "a.mp4"), "captions": ["x"]}))
    encode_manifest(manifest, tmp_path / "set", model=str(tmp_path / "model"), device="cpu")
    new = Library(tmp_path / "new")
    new.add_embeddings(open_embeddings(tmp_path / "set"))
    assert new.settings.scales == Scales.of(1.5)
    facts = tmp_path / "set" / "embeddings.json"
    written = json.loads(facts.read_text())
    assert written.pop("clip_duration_s") == 1.5
    facts.write_text(json.dumps(written))
    old = Library(tmp_path / "old")
    old.add_embeddings(open_embeddings(tmp_path / "set"))
    assert old.settings.scales == Scales.of(12.0)


def test_a_check_knows_how_many_segments_a_video_was_cut_into(stored, encoder):
    """Catches a video that is sound with a segment missing, or damaged because it has gaps without frames."""
    library = Library(stored / "mine", encoder, windows_s=2.0)
    library.add(stored / "videos" / "a.mp4")
    segments = library.store.segments
    [video] = library.store.videos().values()
    assert (video.num_segments, video.num_windows) == (5, 5)
    segments.update(where="true", values={"duration_s": 3600.0, "checksum": None})  # as if 3,594 s of it had no frames
    assert library.verify(repair=False).problems == []
    segments.delete("start_s = 1.0")
    problem, _ = library.verify(repair=False).problems  # and its thumbnail
    assert problem.what.endswith("4 of 5 segments")


def test_segments_come_in_the_order_of_time_however_large_their_times_are(stored, encoder):
    """Catches a clock that jumps to a date: 1,700,000,000,000 ms sorts before 2,000 ms as text."""
    file = VideoFile("/videos", "jump.mp4", 1, 1)
    spans = [(float(start_s), start_s + 2.0) for start_s in (0, 1, 2_000_000, 1_700_000_000, 999_998)]
    vectors = np.eye(5, 16, dtype=np.float32)
    library = Library(stored / "index", encoder)
    video = EncodedVideo(file, "hash", 1.7e9, 64, 48, spans, vectors, [None] * 5)
    library.store.apply(Changes([Write(video)]))
    assert [segment.start_s for segment in library.segments_of(file.video_id)] == sorted(s for s, _ in spans)
    segments, found = library.store.vectors_of(file.video_id)
    for segment, vector in zip(segments, found, strict=True):
        assert spans[int(vector.argmax())][0] == segment.start_s
