"""What packages export: all of it is there, and what is imported on first use is not imported before."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

PACKAGES = ["data", "data.importers", "data.shards", "data.tools", "jobs", "video"]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_exported_name_is_there(name: str) -> None:
    """Catches a name that was moved or renamed, and one that is listed twice."""
    package = import_module(f"clipvip.{name}")
    assert len(set(package.__all__)) == len(package.__all__)
    for exported in package.__all__:
        assert getattr(package, exported) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("from clipvip.data import read_manifest, MediaFolder", "torch transformers av"),
        ("from clipvip.data.tools import manifest_stats, write_subset", "torch transformers av"),
        ("import clipvip.jobs", "torch transformers av ray"),
        ("import clipvip.video", "torch transformers"),
    ],
)
def test_names_load_no_more_than_they_need(code: str, unwanted: str) -> None:
    """Catches a package that loads all its parts, with torch and decoders, for one name."""
    check = f"import sys; {code}; found = set({unwanted.split()}) & set(sys.modules); assert not found, found"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
