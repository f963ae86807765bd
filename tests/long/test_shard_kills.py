"""Shards and dozens of kills at random moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers_shards import kill_and_resume

pytestmark = pytest.mark.long


@pytest.mark.parametrize("seed", range(1, 7))
def test_killed_dozens_of_times(seed: int, tmp_path: Path) -> None:
    """Catches clips lost, halved or doubled by a kill at a moment that is seldom hit."""
    kill_and_resume(tmp_path, kills=8, seed=seed)
