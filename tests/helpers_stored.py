"""The stored index of schema 2 (see tests/data/README.md)."""

from __future__ import annotations

import tarfile
from pathlib import Path

STORED = Path(__file__).parent / "data" / "index-schema-2.tar.gz"
STORED_FINGERPRINT = "f13ca40114050509"


def unpack_stored(folder: Path) -> Path:
    """A folder with `index`, `model` and `videos`. The index has its videos in /srv/videos, which is not there."""
    with tarfile.open(STORED) as archive:
        archive.extractall(folder, filter="data")
    return folder
