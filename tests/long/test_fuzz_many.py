"""More damaged files than `make test` has time for."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers_fuzz import read_damaged_copies

pytestmark = pytest.mark.long


def test_500_damaged_files_give_frames_or_an_error(tmp_path: Path) -> None:
    """Catches a rare crash, hang, foreign exception or leaked file handle on damaged files of any container."""
    seen, found = read_damaged_copies(range(50, 550), tmp_path)
    assert found == []
    assert seen.total() == 500
