"""Imports, exit codes and one-line errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["clipvip", "clipvip.cli", "clipvip.evaluation", "clipvip.video"])
def test_cheap_imports(module: str) -> None:
    """Catches an import that makes `clipvip --help`, or a NumPy-only user, wait for torch."""
    heavy = "{'torch', 'transformers', 'lancedb', 'accelerate', 'matplotlib'}"
    done = run("-c", f"import sys, {module}; found = {heavy} & set(sys.modules); assert not found, found")
    assert done.returncode == 0, done.stderr


def test_public_names_arrive() -> None:
    """Catches a lazy name that points nowhere."""
    done = run("-c", "import clipvip; [getattr(clipvip, name) for name in clipvip.__all__]; clipvip.nothing")
    assert "module 'clipvip' has no attribute 'nothing'" in done.stderr


def test_help_of_every_verb_has_an_example() -> None:
    """Catches a verb without help."""
    upkeep = [f"library {verb}" for verb in ("status", "verify", "prune", "forget", "rebuild", "upgrade")]
    for verb in ("demo", "convert", "train", "evaluate", "index", "search", "library", *upkeep):
        done = run("-m", "clipvip", *verb.split(), "--help")
        assert done.returncode == 0, done.stderr
        assert f"clipvip {verb}" in done.stdout.replace("\n", " "), verb
        assert "Example" in done.stdout, verb


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train"], 2, "train needs a RECIPE and --workdir"),
        (["train", "demo/nothing", "--workdir", "x"], 2, "demo/nothing: no such recipe"),
        (["evaluate", "--model", "nowhere", "--data", "missing.jsonl"], 1, "missing.jsonl: no such manifest"),
        (["demo", "--preset", "huge"], 2, "--preset huge"),
        (["fly"], 2, "No such command"),
    ],
)
def test_errors_are_one_line_with_the_right_code(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    """Catches tracebacks, wrong exit codes, and errors that name nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "clipvip", *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
