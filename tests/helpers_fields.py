"""What tests about configuration fields share: tables that are complete, and weights that compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

Look = tuple[str, Callable[[Any], Any]]
"""A name, and how to see it of a run or a model: in values that compare."""


def assert_covered(rows: set[str], existing: set[str]) -> None:
    """Every field has a row, and every row a field."""
    missing, gone = sorted(existing - rows), sorted(rows - existing)
    assert not missing, f"no row shows what is changed by: {', '.join(missing)}"
    assert not gone, f"rows of fields that do not exist: {', '.join(gone)}"


def frozen(model: nn.Module) -> dict[str, bytes]:
    """Weights as they are now, to the bit."""
    return {name: value.detach().cpu().numpy().tobytes() for name, value in model.named_parameters()}
