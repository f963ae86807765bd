"""Exact search against a slow loop, and the files that it maps."""

from __future__ import annotations

import os
from types import SimpleNamespace

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from clipvip.search import Filters, Query, Term
from clipvip.search.index.mmap_cache import cache_folder, open_snapshot
from clipvip.search.index.schema import HIT_COLUMNS, Settings
from clipvip.search.query.ann import IndexedSegments
from clipvip.search.query.engine import Searcher
from clipvip.search.query.exact import ExactSegments
from clipvip.search.query.filters import conditions

SIZE = 8


def segment_rows(num_videos, windows, seed=0, first=0):
    """A table as an index has it: windows of 6 s every 3 s. Vectors repeat, so that scores tie."""
    rng = np.random.default_rng(seed)
    pool = rng.standard_normal((max(3, num_videos), SIZE)).astype(np.float32)
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    rows = []
    for video in rng.permutation(num_videos) + first:
        for i in range(windows):
            rows.append({
                "segment_id": f"{video:016x}-{3000 * i:09d}-{3000 * i + 6000:09d}", "video_id": f"{video:016x}",
                "root": f"/films {video % 2}", "path": f"{video % 3}/{video}.mp4", "mtime_ns": video * 10**9,
                "duration_s": 3.0 * windows + 3, "start_s": 3.0 * i, "end_s": 3.0 * i + 6,
            })  # fmt: skip
    vectors = pool[rng.integers(len(pool), size=len(rows))]
    table = pa.Table.from_pylist(rows).select(HIT_COLUMNS)
    return table.append_column("vector", pa.FixedSizeListArray.from_arrays(vectors.ravel(), SIZE))


@pytest.fixture
def table(tmp_path):
    return lancedb.connect(tmp_path / "index").create_table("segments", segment_rows(40, 5))


def slow_top(table, vector, keep, m):
    """Best segments by a loop over the rows."""
    scored = [
        (-float(np.dot(np.float32(row["vector"]), vector)), row["segment_id"])
        for row in table.to_arrow().to_pylist()
        if keep(row)
    ]
    return sorted((round(score, 5), segment_id) for score, segment_id in scored)[:m]


@pytest.mark.parametrize("m", [1, 7, 33, 1000])
@pytest.mark.parametrize("filters", [Filters(), Filters(path="1/**"), Filters(root="/films 0", path="*.mp4")])
def test_both_ways_are_a_loop(table, tmp_path, filters, m):
    """Catches a wrong order where scores tie, also where the cut at m goes through a tie, and ignored filters."""
    vector = np.linspace(-1, 1, SIZE, dtype=np.float32)

    def keep(row):
        return (filters.path != "1/**" or row["path"].startswith("1/")) and (
            filters.root is None or row["root"] == filters.root
        )

    expected = slow_top(table, vector, keep, m)
    wanted = conditions(filters)
    exact = ExactSegments(*open_snapshot(table, SIZE, tmp_path / "cache"))
    for segments in (exact, IndexedSegments(table, exact=True)):
        top = segments.scan(vector, wanted).top(m)
        found = list(zip(np.round(-top.scores.astype(float), 5), top.rows["segment_id"].to_pylist(), strict=True))
        if segments is exact:
            assert found == expected
        assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-5)
        videos = sorted(set(top.rows["video_id"].to_pylist()))[:3]
        own = segments.scan(vector, wanted).of_videos(videos)
        ids = [row["segment_id"] for row in table.to_arrow().to_pylist() if row["video_id"] in videos and keep(row)]
        assert sorted(own.rows["segment_id"].to_pylist()) == sorted(ids)
        np.testing.assert_allclose(own.vectors @ vector, own.scores, atol=1e-6)
        assert sum(len(block) for block in segments.blocks(wanted)) == sum(map(keep, table.to_arrow().to_pylist()))


def test_files_are_those_of_the_tables_version(table, tmp_path):
    """Catches answers from before the last commit, a file made twice, and old ones that pile up."""
    folder = tmp_path / "cache"
    first = open_snapshot(table, SIZE, folder)
    assert len(first.rows) == 200
    assert isinstance(first.vectors, np.memmap)
    [vectors] = folder.glob("*.npy")
    before = vectors.stat().st_ino
    open_snapshot(table, SIZE, folder)
    assert vectors.stat().st_ino == before

    table.add(segment_rows(3, 2, seed=1, first=100))
    table.delete("path = '1/1.mp4'")
    second = open_snapshot(table, SIZE, folder)
    assert second.rows.equals(table.to_arrow().select(HIT_COLUMNS))
    np.testing.assert_array_equal(second.vectors, np.stack(table.to_arrow()["vector"].to_pylist()))
    assert len(list(folder.glob("segments-*"))) == 2
    assert len(first.rows) == 200  # who has the old ones mapped keeps them
    assert np.isfinite(first.vectors).all()

    for path in folder.glob("segments-*"):
        start = path.read_bytes()[:1000]
        path.unlink()  # what is mapped must not shrink
        path.write_bytes(start)
    np.testing.assert_array_equal(
        open_snapshot(table, SIZE, folder).vectors, second.vectors
    )  # damaged ones are made anew

    table.delete("true")
    empty = open_snapshot(table, SIZE, folder)
    assert (len(empty.rows), empty.vectors.shape) == (0, (0, SIZE))


def test_a_table_made_anew_has_files_of_its_own(table, tmp_path):
    """Catches answers from an index that was deleted and made again: its versions have the same numbers."""
    open_snapshot(table, SIZE, tmp_path / "cache")
    again = lancedb.connect(tmp_path / "other").create_table("segments", segment_rows(2, 2))
    assert again.version == table.version
    assert len(open_snapshot(again, SIZE, tmp_path / "cache").rows) == 4


@pytest.mark.skipif(os.name != "posix", reason="modes")
def test_search_goes_on_where_nothing_can_be_written(table, tmp_path):
    """Catches a search that needs write access to the index."""
    blocked = tmp_path / "cache"
    blocked.write_text("a file where the folder should be")
    snapshot = open_snapshot(table, SIZE, blocked)
    assert snapshot.rows.equals(table.to_arrow().select(HIT_COLUMNS))
    np.testing.assert_array_equal(snapshot.vectors, np.stack(table.to_arrow()["vector"].to_pylist()))


def test_files_of_a_remote_index_are_in_the_users_cache(monkeypatch, tmp_path):
    """Catches a cache at a path made of an address, and two indexes that share one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("films") == tmp_path.__class__("films", "search-cache")
    one, other = cache_folder("s3://films/a"), cache_folder("s3://films/b")
    assert one != other
    assert one.is_relative_to(tmp_path) or os.name != "posix"


def pages(searcher, query, sizes):
    found = []
    for k in sizes:
        vector = np.linspace(-1, 1, SIZE, dtype=np.float32)
        results = searcher.answer(Query(terms=(Term(vector=vector),), k=k, offset=len(found), **query))
        found += results
    return found


@pytest.mark.parametrize("query", [{}, {"merge": False}, {"per_video": True}, {"filters": Filters(path="2/**")}])
def test_pages_are_the_parts_of_one_list(table, tmp_path, query):
    """Catches an answer that is on two pages or on none, other spans on another page, and ranks that begin anew."""
    settings = Settings("no model", "no fingerprint", SIZE, (2.0,), (1.0,))
    store = SimpleNamespace(
        uri=str(tmp_path / "index"), segments=table, settings=settings, vector=None, checked=lambda rows: rows,
        version=table.version, num_segments=table.count_rows(), facts=None,
    )  # fmt: skip
    searcher = Searcher(store, None)
    whole = pages(searcher, query, [1000])
    assert pages(searcher, query, [1, 2, 5, 1, 1000]) == whole
    assert [hit.rank for hit in whole] == list(range(1, len(whole) + 1))
    scores = [hit.score for hit in whole]
    assert scores == sorted(scores, reverse=True)
    if query.get("per_video"):
        assert len({hit.video_id for hit in whole}) == len(whole) == 40
    if query.get("merge") is False:
        assert len(whole) == 200
    if "filters" in query:
        assert {hit.video.parent.name for hit in whole} == {"2"}
