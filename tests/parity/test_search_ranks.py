"""Search through the index against evaluation of the same gallery: two ways to the same ranks."""

from __future__ import annotations

import numpy as np

import clipvip
from clipvip.evaluation import retrieval_ranks
from clipvip.search import Library, Query, Term
from helpers_model import write_model
from helpers_video import write_video

TEXTS = [f"a {color} {shape} jumps" for color in ("red", "blue", "white") for shape in ("circle", "cross", "square")]


def test_ranks_through_the_index_are_those_of_evaluation(tmp_path):
    """Catches an index that samples, crops or scores otherwise than evaluation does, or that loses a video."""
    encoder = clipvip.load(write_model(tmp_path / "model"), device="cpu")
    (tmp_path / "films").mkdir()
    paths = [write_video(tmp_path / "films" / f"{i}.mp4", 8 + i, grain=1 + i % 4) for i in range(12)]
    similarity = encoder.encode_texts(TEXTS) @ encoder.encode_videos(paths).T
    owners = np.arange(len(TEXTS))  # text i belongs to video i
    expected = retrieval_ranks(similarity, owners)["t2v"]

    library = Library(tmp_path / "index", encoder)
    library.add(tmp_path / "films")
    for text, owner, rank in zip(TEXTS, owners, expected, strict=True):
        results = library.search(Query(terms=(Term(text=text),), k=len(paths), per_video=True))
        assert [hit.rank for hit in results if hit.video == paths[owner]] == [rank]
        assert len(results) == len(paths)
