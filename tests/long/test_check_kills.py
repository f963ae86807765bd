"""`clipvip data check`, killed again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers_fuzz import reports_despite_kills, write_flawed_set

pytestmark = pytest.mark.long


def test_50_kills_change_nothing(tmp_path: Path) -> None:
    """Catches a clip lost, counted twice or judged otherwise because the check was killed at just the wrong moment."""
    manifest = write_flawed_set(tmp_path / "set", 200)
    whole, *others = reports_despite_kills(manifest, tmp_path, num_kills=50, seed=0)
    assert others
    assert set(others) == {whole}
