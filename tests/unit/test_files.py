"""Files that are there as a whole or not at all, whatever they are called."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

from clipvip.files import replacing


@pytest.mark.parametrize("name", ["a.txt", "x" * 247, "x" * 248, "x" * 251 + ".txt", "😀" * 62 + ".mp4", "é" * 127])
def test_replacing_a_file_with_a_name_of_any_length(tmp_path, name):
    """Catches a temporary name that is longer than file systems take, and one that two files share."""
    path, other = tmp_path / name, tmp_path / ("y" + name[1:])
    with replacing(path) as temporary, replacing(other) as beside:
        assert temporary != beside
        assert temporary.parent == tmp_path
        temporary.write_text("new")
        beside.write_text("other")
    assert (path.read_text(), other.read_text()) == ("new", "other")
    assert sorted(os.listdir(tmp_path)) == sorted([name, other.name])
    with suppress(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "new"
    assert len(os.listdir(tmp_path)) == 2
