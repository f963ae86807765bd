"""Where the command line and the server take names from."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import clipvip

SOURCE = Path(clipvip.__file__).parent
FILES = sorted(path for room in ("cli", "serve") for path in (SOURCE / room).rglob("*.py"))


def imports_of(path: Path) -> list[ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_names_are_imported_from_where_they_are_defined(path: Path) -> None:
    """Catches a name that is taken from a module which only happens to import it (B13)."""
    for node in imports_of(path):
        module = SOURCE.parent / Path(*(node.module or "").split(".")).with_suffix(".py")
        if not (node.module or "").startswith("clipvip.") or not module.exists():
            continue  # a package: its `__init__` lists what others may use
        borrowed = {alias.asname or alias.name for other in imports_of(module) for alias in other.names}
        for alias in node.names:
            assert alias.name not in borrowed, f"{alias.name} is not defined in {node.module}"
