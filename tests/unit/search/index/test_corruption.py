"""Damage to the files of an index: found on use or by a check, and repaired where that is possible."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import clipvip
from clipvip.encode import Encoder
from clipvip.errors import SearchIndexError
from clipvip.search import Library, Query, Term
from clipvip.search.index import integrity
from clipvip.search.index.schema import (
    CHECKED_COLUMNS,
    SETTINGS,
    SETTINGS_CHECKSUM,
    row_checksums,
    vector_checksums,
)
from helpers_cli import run_here
from helpers_corrupt import answers, assert_none_is_silent, run_trials, write_index
from helpers_model import write_model
from helpers_video import write_videos


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return clipvip.load(write_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_index(folder, encoder)
    return folder


@pytest.fixture
def index(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source / "index", tmp_path / "index"))


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


def zero(path: Path, start: int, length: int) -> None:
    content = bytearray(path.read_bytes())
    content[start : start + length] = bytes(length)
    path.write_bytes(content)


def update(library: Library, table: str, where: str, values: dict[str, object]) -> None:
    """Change rows, but not their checksums, and take the files as they are then."""
    getattr(library.store, table).update(where=where, values=values)
    integrity.record(Path(library.uri))


def told(library: Library, **options: bool) -> str:
    return "\n".join(f"{problem.what}: {problem.repaired}" for problem in library.verify(**options).problems)


def test_every_changed_bit_changes_a_checksum():
    """Catches a checksum that passes over some bits, the order of numbers, or strings of other lengths."""
    rng = np.random.default_rng(0)
    for size in (7, 16):
        vectors = rng.standard_normal((3, size)).astype(np.float32)
        whole = vector_checksums(vectors)
        for bit in range(32 * size):
            changed = vectors.copy()
            changed[1].view(np.uint32)[bit // 32] ^= np.uint32(1 << bit % 32)
            assert (vector_checksums(changed) != whole).tolist() == [False, True, False]
        assert (vector_checksums(vectors[:, ::-1]) != whole).all()
    texts = ["", "a", "aa", "b", None, "ab", "ba", "a\0"]
    rows = pa.table({"text": texts, "number": pa.array([None, 0, 1, 2, 3, 4, 5, 6], pa.int32())})
    checksums = row_checksums(rows, ["text"])
    assert len(set(checksums.tolist())) == len(texts)
    np.testing.assert_array_equal(row_checksums(rows.slice(3, 4), ["text"]), checksums[3:7])
    assert len(set(row_checksums(rows, ["text", "number"]).tolist())) == len(texts)


def test_twenty_damaged_indexes(source, tmp_path, encoder):
    """Catches damage after which searches give other answers and nothing reports it."""
    assert_none_is_silent(run_trials(source / "index", tmp_path, encoder, num_trials=20, seed=0))


def test_damaged_caches_are_made_again(index, encoder, caplog):
    """Catches a cache with a zeroed block that answers searches, and a check that calls it sound."""
    expected = answers(Library(index, encoder))
    caches = sorted((index / "search-cache").glob("*-*"))
    assert {path.suffix for path in caches} == {".npy", ".arrow"}
    assert len(caches) == 3
    for path in caches:
        for damage in (lambda path: zero(path, 200, 100), lambda path: flip(path, 0.9), lambda path: zero(path, 0, 8)):
            damage(path)
            assert f"{path}: damaged" in told(Library(index, encoder), repair=False) or path.suffix == ".arrow"
            assert not Library(index, encoder).verify(repair=False).sound
            caplog.clear()
            assert answers(Library(index, encoder)) == expected
            assert "damaged; it is made again" in caplog.text
    assert Library(index, encoder).verify().problems == []
    a, b = caches[0].read_bytes(), caches[2].read_bytes()
    caches[0].write_bytes(b)
    caches[2].write_bytes(a)
    assert Library(index, encoder).verify().sound
    assert answers(Library(index, encoder)) == expected


@pytest.mark.parametrize(
    ("column", "value"), [("path", "other.mp4"), ("start_s", 0.5), ("vector", [1.0] + 15 * [0.0]), ("video_id", "x")]
)
def test_a_changed_row_is_an_error_on_use_and_taken_out(index, encoder, column, value):
    """Catches a flipped bit in a path, an id, a time or a vector of the same norm, which no other check can see."""
    library = Library(index, encoder)
    segment = library.search("a dog", merge=False).hits[0].segment_id
    update(library, "segments", f"segment_id = '{segment}'", {column: value})
    changed = Library(index, encoder)
    with pytest.raises(SearchIndexError, match=r"damaged: 1 of .*`clipvip library verify .*` takes their videos out"):
        changed.search("a dog")
    with pytest.raises(SearchIndexError, match="damaged: 1 of "):
        changed.search(Query(terms=(Term(segment=segment),)))
    found = changed.verify()
    assert "a segment that is not as it was written: taken out" in "\n".join(
        f"{p.what}: {p.repaired}" for p in found.problems
    )
    assert (found.sound, found.removed >= 1) == (True, True)
    assert changed.verify().problems == []
    assert changed.search("a dog").found


def test_a_changed_row_is_found_without_a_cache(index, encoder, monkeypatch):
    """Catches large libraries, which LanceDB searches, and timelines that show a damaged vector."""
    monkeypatch.setattr("clipvip.search.query.engine.EXACT_ROWS", 5)
    library = Library(index, encoder)
    hit = library.search("a dog", merge=False).hits[0]
    update(library, "segments", f"segment_id = '{hit.segment_id}'", {"vector": [1.0] + 15 * [0.0]})
    for look in (lambda: library.search("a dog", k=50), lambda: library.timeline(hit.video_id, "a dog")):
        with pytest.raises(SearchIndexError, match="damaged: 1 of "):
            look()


def test_a_copy_of_a_damaged_video_is_encoded(source, tmp_path, encoder):
    """Catches damaged vectors that get a right checksum with a file that was copied."""
    shutil.copytree(source, tmp_path / "work")
    videos = tmp_path / "work" / "videos"
    library = Library(tmp_path / "new", encoder, windows_s=(2.0, 1.0))
    library.add(videos)
    update(library, "segments", "path = '1.mp4'", {"vector": [1.0] + 15 * [0.0]})
    shutil.copy(videos / "1.mp4", videos / "copy.mp4")
    summary = library.add()
    assert (summary.videos, summary.copied) == (1, 0)
    rows = library.store.segments.search().where("path = 'copy.mp4'").to_arrow()
    np.testing.assert_allclose(
        np.stack(rows["vector"].to_numpy(zero_copy_only=False)),
        encoder.encode_videos([(videos / "copy.mp4", r["start_s"], r["end_s"]) for r in rows.to_pylist()]),
        atol=1e-5,
    )


def test_times_outside_a_video(index, encoder):
    """Catches rows of an older clipvip, which have no checksum, with times that no player can show."""
    library = Library(index, encoder)
    update(library, "segments", "path = '1.mp4'", {"end_s": 900.0, "checksum": None})
    assert "1.mp4: a segment with times outside the video: taken out" in told(library)


def test_damaged_thumbnails_are_made_again(index, encoder):
    """Catches a damaged JPEG that is shown, and one that a check passes over; also those without a checksum."""
    library = Library(index, encoder)
    rows = library.store.thumbnails.to_arrow()
    ids = rows["segment_id"].to_pylist()[:2]
    broken = rows["jpeg"][0].as_py()[:-40]
    update(library, "thumbnails", f"segment_id = '{ids[0]}'", {"jpeg": broken})
    update(library, "thumbnails", f"segment_id = '{ids[1]}'", {"jpeg": broken, "checksum": None})
    assert Library(index, encoder).thumbnail(ids[0]) is None
    assert "segments without a thumbnail, or with a damaged one: made again" in told(library)
    assert Library(index, encoder).verify().problems == []
    for segment_id in ids:
        Image.open(io.BytesIO(library.thumbnail(segment_id) or b"")).load()


@pytest.mark.parametrize("name", ["failures", "roots", "thumbnails"])
@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(b"junk")])
def test_damaged_small_tables(index, encoder, name, damage):
    """Catches a damaged table of failures, roots or thumbnails that a check calls sound, or cannot repair."""
    before = Library(index, encoder).roots
    for path in (index / f"{name}.lance" / "data").iterdir():
        damage(path)
    found = Library(index, encoder).verify()
    assert found.problems
    assert found.sound
    library = Library(index, encoder)
    assert library.verify().problems == []
    assert library.roots == before
    assert len(library.search("a dog", merge=False))
    assert library.add(Path(before[0])).videos == 0
    assert len(library.status().failures) == 1


def test_damaged_background_queries(index, encoder, caplog):
    """Catches other p-values than before without a word."""
    library = Library(index, encoder)
    table = library.store.database.open_table("background")
    table.update(where="text = 'text 3'", values={"text": "text 4"})
    damaged = Library(index, encoder)
    with pytest.raises(SearchIndexError, match="background queries are damaged"):
        damaged.search("a dog", false_alarm=0.5)
    assert "the background queries are damaged: deleted" in told(damaged)
    assert Library(index, encoder).search("a dog", false_alarm=0.5).p_value is not None


def test_video_files_that_have_changed_in_silence(source, tmp_path, encoder, capsys):
    """Catches a video whose content differs from what is indexed, although its size and time are the same."""
    videos = Path(shutil.copytree(source / "videos", tmp_path / "videos"))
    library = Library(tmp_path / "index", encoder, windows_s=2.0)
    library.add(videos)
    state = (videos / "1.mp4").stat()
    flip(videos / "1.mp4")
    os.utime(videos / "1.mp4", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert library.verify().problems == []
    index = ("index", "--index", str(tmp_path / "index"))
    verify = ("library", "verify", "--content", "--index", str(tmp_path / "index"))
    assert run_here(*verify) == 1
    out = capsys.readouterr().out
    assert "1.mp4: its content is not what was indexed, although size and time are: taken out; index again" in out
    assert "1 problems, 1 repaired, 1 videos taken out (index again)" in out
    assert run_here(*verify) == 0
    assert Library(tmp_path / "index", encoder).add().videos == 1
    assert run_here(*index, "--content") == 2


def remove_newest(index: Path, tables: list[str]) -> None:
    for table in tables:
        manifests = sorted((index / f"{table}.lance" / "_versions").glob("*.manifest"))
        for manifest in manifests[: len(manifests) // 2]:
            manifest.unlink()
        (index / f"{table}.lance" / "_versions" / "latest_version_hint.json").unlink(missing_ok=True)


@pytest.mark.parametrize("tables", [["segments"], ["thumbnails"], list(integrity.TABLES)])
def test_a_copy_without_the_newest_versions_is_refused(index, encoder, tables):
    """Catches an older, even empty index that answers in place of the one that was copied, and loses its thumbnails."""
    remove_newest(index, tables)
    thumbnails = sorted((index / "thumbnails.lance").rglob("*"))
    for look in (lambda: Library(index), lambda: Library(index, encoder).add(), lambda: Library(index).verify()):
        with pytest.raises(
            SearchIndexError, match=r"the newest version of its table .* is missing: it was copied in part"
        ):
            look()
    assert sorted((index / "thumbnails.lance").rglob("*")) == thumbnails
    (index / integrity.NAME).unlink()  # a copy without that, too
    found = Library(index, encoder).verify()
    assert not found.sound or "segments" not in tables
    assert Library(index, encoder).store.thumbnails.count_rows() > 0


def test_a_kill_between_a_commit_and_its_record(index, encoder, monkeypatch):
    """Catches an index that is taken for a partial copy because a run was killed."""
    library = Library(index, encoder)
    with monkeypatch.context() as patched:
        patched.setattr(integrity, "record", lambda index: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            library.store.unregister(library.roots)
    again = Library(index, encoder)
    assert again.roots == []
    assert again.verify().problems == []


def test_a_damaged_manifest_is_refused(index, encoder):
    """Catches settings with a flipped bit: other windows, another model, or a traceback."""
    newest = min((index / "segments.lance" / "_versions").glob("*.manifest"))
    flip(newest, 0.3)
    with pytest.raises(SearchIndexError, match="is damaged; restore it from a copy"):
        Library(index)


def test_checks_cost_little_on_rows_of_any_columns(index, encoder):
    """Catches a column that is added to the rows and left out of their checksums."""
    names = set(Library(index, encoder).store.segments.schema.names)
    assert names == {*CHECKED_COLUMNS, "checksum"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b'"windows_s"', b'"windowr_s"'),
        lambda text: text.replace(b"2.0", b"3.0"),
        lambda text: b"[" * 100_000,
        lambda text: text[:-9],
        lambda text: b"3",
    ],
)
@pytest.mark.parametrize("has_checksum", [True, False])
def test_damaged_settings_are_one_line(index, encoder, damage, has_checksum):
    """Catches tracebacks for settings with a flipped bit, and other windows, where no file is checked."""
    library = Library(index, encoder)
    rows = library.store.segments.to_arrow()
    metadata = dict(rows.schema.metadata)
    damaged = damage(metadata[SETTINGS])
    if b"3.0" in damaged and not has_checksum:
        return  # these are settings
    metadata[SETTINGS] = damaged
    if not has_checksum:
        del metadata[SETTINGS_CHECKSUM]
    library.store.database.create_table("segments", rows.replace_schema_metadata(metadata), mode="overwrite")
    (index / integrity.NAME).unlink()
    with pytest.raises(SearchIndexError, match="its settings are damaged") as caught:
        Library(index)
    assert "\n" not in str(caught.value)


def test_a_damaged_approximate_index_is_made_again(tmp_path, encoder, monkeypatch):
    """Catches wrong candidates of a large library, which no row shows, and a check that cannot repair them."""
    for place in ("index._lance", "query.engine"):
        monkeypatch.setattr(f"clipvip.search.{place}.EXACT_ROWS", 300)
    library = Library(tmp_path / "index", encoder, windows_s=0.2, strides_s=0.05)
    library.add(write_videos(tmp_path / "videos", 80, 100))
    files = [path for path in (tmp_path / "index" / "segments.lance" / "_indices").rglob("*") if path.is_file()]
    assert files
    expected = [hit.segment_id for hit in library.search("a dog", merge=False)]
    for path in files:
        flip(path)
    damaged = Library(tmp_path / "index", encoder)
    found = damaged.verify()
    assert [(p.what, p.repaired) for p in found.problems] == [
        (f"the approximate index is damaged ({len(files)} files)", "made again")
    ]
    again = Library(tmp_path / "index", encoder)
    assert again.verify().problems == []
    assert [hit.segment_id for hit in again.search("a dog", merge=False)] == expected
    assert again.store.segments.list_indices()
