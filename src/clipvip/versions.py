"""What a result was made with: versions of packages, and the commit of this code."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict


class Commit(TypedDict):
    """hash: in full. changed: was the package changed since?"""

    hash: str
    changed: bool


def versions(*packages: str) -> dict[str, str]:
    """Of Python and of these packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def commit() -> Commit | None:
    """Of the checkout that this package runs from; None if it is installed, or there is no git."""
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # some other checkout around the place it is installed in
    found = _git("rev-parse", "HEAD")
    return None if found is None else {"hash": found, "changed": bool(_git("status", "--porcelain", "."))}


def _git(*words: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
