"""LanceDB's index of a library that counts as large."""

from __future__ import annotations

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from clipvip.search import Filters
from clipvip.search.index._lance import update_ann_index
from clipvip.search.index.mmap_cache import open_snapshot
from clipvip.search.index.schema import HIT_COLUMNS
from clipvip.search.query.ann import IndexedSegments
from clipvip.search.query.exact import ExactSegments
from clipvip.search.query.filters import conditions

SIZE = 16


def rows_of(vectors, first=0):
    numbers = [int(i) for i in range(first, first + len(vectors))]
    rows = [
        {
            "segment_id": f"{i:016x}-000000000-000006000", "video_id": f"{i // 4:016x}", "root": "/films",
            "path": f"{i % 3}/{i // 4}.mp4", "mtime_ns": i * 10**9, "duration_s": 30.0, "start_s": 6.0 * (i % 4),
            "end_s": 6.0 * (i % 4) + 6,
        }
        for i in numbers
    ]  # fmt: skip
    return (
        pa.Table.from_pylist(rows)
        .select(HIT_COLUMNS)
        .append_column("vector", pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]))
    )


@pytest.fixture(params=[SIZE, 12])
def vectors(request):
    vectors = np.random.default_rng(0).standard_normal((3000, request.param)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_index_finds_nearly_what_a_product_finds(tmp_path, vectors, monkeypatch):
    """Catches an index of another distance, filters that come after the search, and late rows that are not found."""
    monkeypatch.setattr("clipvip.search.index._lance.EXACT_ROWS", 2000)
    monkeypatch.setattr("clipvip.search.query.ann.SCANNED_ROWS", 100)
    size = vectors.shape[1]
    table = lancedb.connect(tmp_path).create_table("segments", rows_of(vectors[:2800]))
    assert update_ann_index(table)
    names = {index.name for index in table.list_indices()}
    assert update_ann_index(table)  # is there already
    assert {index.name for index in table.list_indices()} == names
    assert "vector_idx" in names
    table.add(rows_of(vectors[2800:], first=2800))

    exact = ExactSegments(*open_snapshot(table, size, tmp_path / "cache"))
    rng = np.random.default_rng(1)
    for filters in (Filters(), Filters(path="1/**"), Filters(path="*7.mp4"), Filters(path="2/17*.mp4")):
        wanted = conditions(filters)
        found, surely = 0, 0
        for _ in range(20):
            query = rng.standard_normal(size).astype(np.float32)
            query /= np.linalg.norm(query)
            ids = exact.scan(query, wanted).top(10).rows["segment_id"].to_pylist()
            for segments in (IndexedSegments(table), IndexedSegments(table, exact=True)):
                top = segments.scan(query, wanted).top(10)
                same = len(set(ids) & set(top.rows["segment_id"].to_pylist()))
                found, surely = (found, surely + same) if segments.exact else (found + same, surely)
                assert top.scores.tolist() == sorted(top.scores.tolist(), reverse=True)
                np.testing.assert_allclose(top.scores, top.vectors @ query, atol=1e-6)
        assert surely == 20 * len(ids)
        assert found >= 0.9 * surely
    late = IndexedSegments(table).scan(vectors[2900], ()).top(1)
    assert late.rows["segment_id"].to_pylist() == [f"{2900:016x}-000000000-000006000"]
    own = IndexedSegments(table).scan(vectors[0], ()).of_videos([f"{5:016x}"])
    assert sorted(own.rows["start_s"].to_pylist()) == [0.0, 6.0, 12.0, 18.0]
    assert sum(len(block) for block in IndexedSegments(table).blocks(())) == 3000
    assert len(IndexedSegments(table).sample) == 3000


def test_small_libraries_get_no_index(tmp_path, vectors):
    """Catches minutes of work for a library that is searched exactly anyway."""
    table = lancedb.connect(tmp_path).create_table("segments", rows_of(vectors[:500]))
    assert not update_ann_index(table)
    assert not table.list_indices()
