"""Damage to random files of an index."""

from __future__ import annotations

from pathlib import Path

import pytest

import clipvip
from helpers_corrupt import assert_none_is_silent, run_trials, write_index
from helpers_model import write_model

pytestmark = pytest.mark.long


@pytest.mark.parametrize("seed", [1, 2])
def test_two_hundred_damaged_indexes(tmp_path: Path, seed: int) -> None:
    """Catches damage after which searches give other answers and nothing reports it."""
    encoder = clipvip.load(write_model(tmp_path / "model"), device="cpu")
    index = write_index(tmp_path, encoder)
    assert_none_is_silent(run_trials(index, tmp_path, encoder, num_trials=200, seed=seed))
