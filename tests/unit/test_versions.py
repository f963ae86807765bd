"""The commit that results name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import clipvip.versions

COMMIT = "import json, versions; print(json.dumps(versions.commit()))"


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit_told_by(package: Path, **variables: str) -> dict[str, object] | None:
    done = subprocess.run(
        [sys.executable, "-B", "-c", COMMIT], cwd=package, env=os.environ | variables, capture_output=True, check=True
    )
    return json.loads(done.stdout)


def test_the_commit_is_that_of_the_code(tmp_path):
    """Catches results under a commit they were not made with: a foreign checkout's, or one whose code was changed."""
    package = tmp_path / "src" / "clipvip"
    package.mkdir(parents=True)
    shutil.copy(clipvip.versions.__file__, package)
    assert commit_told_by(package) is None
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "of another project, in which this one is installed")
    assert commit_told_by(package) is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "ours")
    (tmp_path / "notes.txt").write_text("beside the package")
    assert commit_told_by(package) == {"hash": git(tmp_path, "rev-parse", "HEAD"), "changed": False}
    (package / "versions.py").write_text((package / "versions.py").read_text() + "\n")
    assert commit_told_by(package) == {"hash": git(tmp_path, "rev-parse", "HEAD"), "changed": True}
    assert commit_told_by(package, PATH="") is None
