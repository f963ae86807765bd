"""Research uses the package as any other project does."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

RESEARCH = Path(__file__).resolve().parents[1]
FILES = sorted(path for path in RESEARCH.rglob("*.py") if "tests" not in path.parts)


def imported_from_clipvip(path: Path) -> list[tuple[str, str]]:
    """(module, name) of every import, also of those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name) for alias in node.names]
    return [(module, name) for module, name in found if module.partition(".")[0] == "clipvip"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(RESEARCH).as_posix())
def test_only_public_names_of_the_package_are_imported(path: Path) -> None:
    """Catches an experiment that breaks with every change inside the package."""
    for module, name in imported_from_clipvip(path):
        found = import_module(module)
        if hasattr(found, "__path__"):
            assert name in found.__all__, f"{module}.{name}: not exported by its package"
        else:
            assert module.count(".") == 1, f"{module}: inside a package; import its names from the package"
        assert not name.startswith("_"), f"{module}.{name}: private"


def test_there_is_something_to_check() -> None:
    """Catches a check of an empty folder."""
    assert sum(len(imported_from_clipvip(path)) for path in FILES) > 20
