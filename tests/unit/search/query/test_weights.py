"""Weights of terms, whatever their size."""

from __future__ import annotations

from pathlib import Path

import pytest

import clipvip
from clipvip.search import Library, Query, Term
from helpers_cli import run_here
from helpers_model import write_model
from helpers_video import write_videos


def test_weights_of_any_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches scores that are NaN, and "not found", because a sum of tiny or huge weights is 0 or infinite."""
    library = Library(tmp_path / "index", clipvip.load(write_model(tmp_path / "model"), device="cpu"), windows_s=2.0)
    library.add(write_videos(tmp_path / "videos", 20, 24, 30))

    def hits(weights: tuple[float, ...], **options: float) -> list[tuple[str, float]]:
        texts = ("a red circle", "a dog", "night")
        terms = tuple(Term(text=text, weight=weight) for text, weight in zip(texts, weights, strict=False))
        results = library.search(Query(terms=terms, merge=False, **options))
        return [(hit.segment_id, round(hit.score, 5)) for hit in results] + [(str(results.p_value), 0.0)]

    for options in ({}, {"false_alarm": 0.5}):
        for weights in ((1.0,), (1.0, 1.0), (1.0, 0.5, -0.5)):
            expected = hits(weights, **options)
            for factor in (1e-310, 1e-60, 1e60, 1.5e308):
                assert hits(tuple(factor * weight for weight in weights), **options) == expected
    assert hits((5e-324,)) == hits((1.0,))
    assert run_here("search", "a dog", "--weight", "text=5e-324", "--index", library.uri) == 0
    assert "nan" not in capsys.readouterr().out
