"""The index through its Python API, on small real videos and a tiny random model."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import clipvip
from clipvip.errors import ClipVipError, InputError, SearchIndexError, UsageError
from clipvip.search import Library, Query, Term
from clipvip.search.index.scan import find_videos
from helpers_model import write_model
from helpers_video import write_audio, write_video


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return clipvip.load(write_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Short, long (7 s), single-frame and headerless videos, in two folders that share a name."""
    folder = tmp_path_factory.mktemp("Frühling im Garten")
    for name in ("a", "b/deep"):
        (folder / name).mkdir(parents=True)
    write_video(folder / "a" / "clip.mp4", 12, width=96)
    write_video(folder / "a" / "lang.mkv", 70)
    write_video(folder / "a" / "still.GIF", 1, codec="gif", pix_fmt="rgb8")
    write_video(folder / "b" / "clip.mp4", 25, rotation=90)
    write_video(folder / "b" / "deep" / "old.avi", 8)
    return folder


@pytest.fixture
def videos(made, tmp_path):
    return shutil.copytree(made, tmp_path / "videos")


def new_library(tmp_path, encoder, **options):
    return Library(tmp_path / "ein index", encoder, **{"windows_s": 3.0, "strides_s": 2.0, **options})


def windows(library, vector, k):
    """The hits nearest to a vector, window by window."""
    return list(library.search(Query(terms=(Term(vector=vector),), k=k, merge=False)))


def refuse_to_encode(*_):
    raise AssertionError("an unchanged file was encoded again")


def test_hits_equal_a_brute_force_search(videos, tmp_path, encoder):
    """Catches wrong times, mixed-up vectors (single frames share no batch), colliding ids and a wrong order."""
    library = new_library(tmp_path, encoder)
    summary = library.add([videos / "a", videos / "b"])
    spans = [(0.0, 3.0), (2.0, 5.0), (4.0, 7.0)]
    oracle = {
        (videos / "a" / "clip.mp4", 0.0): videos / "a" / "clip.mp4",
        **{(videos / "a" / "lang.mkv", start): (videos / "a" / "lang.mkv", start, end) for start, end in spans},
        (videos / "a" / "still.GIF", 0.0): videos / "a" / "still.GIF",
        (videos / "b" / "clip.mp4", 0.0): videos / "b" / "clip.mp4",
        (videos / "b" / "deep" / "old.avi", 0.0): videos / "b" / "deep" / "old.avi",
    }
    assert (summary.videos, summary.segments, summary.unchanged, summary.skipped) == (5, len(oracle), 0, [])
    assert summary.hours == pytest.approx((1.2 + 7.0 + 0.1 + 2.5 + 0.8) / 3600, rel=0.02)

    query = encoder.encode_texts(["the blue square jumps"])[0]
    scores = dict(zip(oracle, encoder.encode_videos(oracle.values()) @ query, strict=True))
    hits = windows(Library(library.uri, encoder), query, 100)
    assert {(hit.video, hit.start_s): hit.score for hit in hits} == pytest.approx(scores, abs=1e-5)
    assert [hit.rank for hit in hits] == list(range(1, len(oracle) + 1))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len({hit.segment_id for hit in hits}) == len(oracle)
    assert windows(library, query, 2) == hits[:2]


def test_thumbnails_keep_the_shape_of_the_video(videos, tmp_path, encoder):
    """Catches a squashed or unrotated thumbnail, and one of another segment."""
    library = new_library(tmp_path, encoder)
    library.add([videos / "a" / "clip.mp4", videos / "b" / "clip.mp4"])
    sizes = {}
    for hit in windows(library, np.ones(16, np.float32), 10):
        jpeg = library.thumbnail(hit.segment_id)
        sizes[hit.video.parent.name] = Image.open(io.BytesIO(jpeg)).size
    assert sizes == {"a": (160, 80), "b": (160, 213)}
    assert library.thumbnail("it's none") is None


def test_unchanged_files_cost_nothing_and_changed_ones_are_replaced(videos, tmp_path, encoder, monkeypatch):
    """Catches doubled rows, stale rows of a changed file, and work done twice after an interruption."""
    library = new_library(tmp_path, encoder)
    library.add([videos])
    with monkeypatch.context() as patched:
        patched.setattr(encoder, "encode_pixels", refuse_to_encode)
        again = Library(library.uri, encoder).add([videos / "b", videos])
    assert (again.videos, again.segments, again.unchanged) == (0, 0, 5)

    write_video(videos / "a" / "lang.mkv", 15)  # was three segments
    write_video(videos / "a" / "clip.mp4", 70)  # was one
    (videos / "b" / "clip.mp4").write_bytes(b"")  # what it showed is gone
    summary = library.add([videos])
    assert (summary.videos, summary.segments, summary.unchanged) == (2, 4, 2)
    assert [skipped.video.name for skipped in summary.skipped] == ["clip.mp4"]
    hits = windows(library, np.ones(16, np.float32), 100)
    spans = sorted((hit.video.name, hit.start_s) for hit in hits)
    assert spans == [
        ("clip.mp4", 0.0),
        ("clip.mp4", 2.0),
        ("clip.mp4", 4.0),
        ("lang.mkv", 0.0),
        ("old.avi", 0.0),
        ("still.GIF", 0.0),
    ]
    assert all(library.thumbnail(hit.segment_id) for hit in hits)


def test_an_interrupted_run_goes_on(videos, tmp_path, encoder, monkeypatch):
    """Catches a run that commits only at its end, and files that are half in the index."""
    library = new_library(tmp_path, encoder)
    monkeypatch.setattr("clipvip.search.index.update.COMMIT_FILES", 1)
    monkeypatch.setattr("clipvip.search.index.encode_files.BATCH_SIZE", 1)

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.add([videos], on_progress=interrupt)
    summary = Library(library.uri, encoder).add([videos])
    assert (summary.unchanged, summary.videos) == (2, 3)


def test_bad_files_are_skipped_with_their_reasons(videos, tmp_path, encoder):
    """Catches one bad file that ends the run, and a damaged one of which nothing is indexed."""
    write_audio(videos / "ton.mp4")
    (videos / "leer.mp4").touch()
    (videos / "text.MP4").write_text("not a video")
    (videos / "dangling.mp4").symlink_to("nowhere")
    whole = write_video(videos / "whole.mp4", 100, faststart=True).read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (videos / "whole.mp4").unlink()
    (videos / ".hidden.mp4").touch()
    (videos / "notes.txt").touch()
    (videos / "loop").symlink_to(videos)
    seen = []
    summary = new_library(tmp_path, encoder).add([videos], on_progress=lambda *at: seen.append(at))
    reasons = {skipped.video.name: skipped.reason for skipped in summary.skipped}
    assert reasons.keys() == {"ton.mp4", "leer.mp4", "text.MP4", "dangling.mp4"}
    assert "audio only" in reasons["ton.mp4"]
    assert not any("\n" in reason or str(videos) in reason for reason in reasons.values())
    assert summary.videos == 6
    assert seen[-1] == (9, 9)  # the dangling link is no file


def test_a_script_without_a_guard_is_told_once(videos, tmp_path):
    """Catches every video blamed for processes that cannot be started: spawned ones import the script again."""
    write_model(tmp_path / "model")
    script = tmp_path / "script.py"
    script.write_text(
        "from clipvip.search import Library\n"
        f"print(Library({str(tmp_path / 'index')!r}, {str(tmp_path / 'model')!r}, device='cpu').add({str(videos)!r}))\n"
    )
    told = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert told.stdout == ""
    assert 'if __name__ == "__main__"' in told.stderr.splitlines()[-1]
    assert Library(tmp_path / "index").status().failures == ()


def test_another_model_is_refused(videos, tmp_path, encoder):
    """Catches vectors of two models in one index, and a search with the wrong one."""
    library = new_library(tmp_path, encoder)
    library.add(videos / "b")
    other = clipvip.load(write_model(tmp_path / "other", seed=1), device="cpu")
    wrong = Library(library.uri, other)
    for attempt in (lambda: wrong.add(videos), lambda: wrong.search("a dog")):
        with pytest.raises(SearchIndexError, match=f"{encoder.fingerprint}.*{other.fingerprint}.*--index"):
            attempt()


def test_other_windows_are_refused(videos, tmp_path, encoder):
    """Catches an index in which half of the videos are cut otherwise than their owner believes."""
    library = new_library(tmp_path, encoder)
    library.add(videos / "b")
    with pytest.raises(UsageError, match="cut into windows of 3 s every 2 s, not into windows of 3 s every 1 s"):
        new_library(tmp_path, encoder, strides_s=1.0).add(videos)
    for mistake in ({"windows_s": (3.0, 3.0)}, {"windows_s": (6.0, 3.0), "strides_s": 2.0}, {"strides_s": 5.0}):
        with pytest.raises(UsageError, match="stride"):
            new_library(tmp_path, encoder, **mistake)


@pytest.mark.parametrize("missing", ["lancedb", "pyarrow"])
def test_a_missing_extra_is_told_at_once(missing):
    """Catches a demo that trains for minutes before it finds that it cannot index, and a bare ImportError."""
    code = f"import sys; sys.modules[{missing!r}] = None; import clipvip.search"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "SearchIndexError: a search index needs LanceDB: install it with" in done.stderr


def test_an_index_that_was_killed_at_its_birth(videos, tmp_path, encoder):
    """Catches an index that can be neither read nor made, since a table without a version is there."""
    library = Library(tmp_path / "index", encoder, windows_s=1.0)
    (tmp_path / "index" / "segments.lance" / "_transactions").mkdir(parents=True)
    with pytest.raises(SearchIndexError, match="no search index there"):
        library.status()
    assert library.add(videos).videos > 0
    assert library.verify(repair=False).sound


def test_a_look_makes_no_index(tmp_path, encoder):
    """Catches a folder that a mere look leaves behind, an index of a mistyped folder, and one without a model."""
    library = new_library(tmp_path, encoder)
    assert not library.exists
    with pytest.raises(SearchIndexError, match="no search index"):
        library.search("a dog")
    with pytest.raises(UsageError, match="nowhere"):
        library.add(tmp_path / "nowhere")
    with pytest.raises(ClipVipError, match="no video files there"):
        library.add(tmp_path)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UsageError, match="which model"):
        Library(library.uri).add(tmp_path)
    assert not (tmp_path / "ein index").exists()
    library.add(tmp_path)
    assert library.exists
    assert windows(library, np.ones(16, np.float32), 5) == []
    with pytest.raises(InputError, match=r"expected \[16\]"):
        windows(library, np.ones(3, np.float32), 5)


def test_a_library_that_grows_large_gets_its_index(tmp_path, encoder, monkeypatch):
    """Catches large libraries that are searched row by row, and rows that came later left out of the index."""
    for place in ("index._lance", "query.engine"):
        monkeypatch.setattr(f"clipvip.search.{place}.EXACT_ROWS", 300)
    monkeypatch.setattr("clipvip.search.index._lance.LATE_ROWS", 50)
    monkeypatch.setattr("clipvip.search.query.ann.CANDIDATES", 10_000)  # none is missed for its short code
    folder = tmp_path / "videos"
    folder.mkdir()
    library = new_library(tmp_path, encoder, windows_s=0.3, strides_s=0.02)
    unindexed = []
    for number, num_frames in enumerate((50, 90, 10, 30)):  # about 50 segments for 10 frames
        write_video(folder / f"{number}.mp4", num_frames, grain=number + 1)
        library.add(folder)
        indices = {index.columns[0]: index for index in library.store.segments.list_indices()}
        unindexed.append(indices["vector"].num_unindexed_rows if "vector" in indices else None)
    assert unindexed[:2] == [None, 0]
    assert 0 < unindexed[2] <= 50
    assert unindexed[3] == 0
    query = Query(terms=(Term(text="a red circle"),), merge=False)
    exactly = library.search(replace(query, exact=True))
    assert [hit.segment_id for hit in library.search(query)] == [hit.segment_id for hit in exactly]


def test_find_videos_names_what_is_missing(tmp_path):
    """Catches a mistyped folder that passes for an empty one."""
    with pytest.raises(UsageError, match="nowhere"):
        find_videos([tmp_path / "nowhere"])
    assert find_videos([tmp_path]).files == []
    if os.name == "posix":
        with open(os.fsencode(tmp_path) + b"/\xff.mp4", "w"):
            pass
        [skipped] = find_videos([tmp_path]).skipped
        assert "UTF-8" in skipped.reason
