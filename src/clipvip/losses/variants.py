"""The variants of omnisource learning as a table of terms, which also says what inputs each of them needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Term(NamedTuple):
    """One cross-entropy: row i of `query` has to find row i of `key` among all rows of `key`.

    also: a source whose rows j != i are negatives too (row i is a second positive, so it is left out).
    """

    query: str
    key: str
    also: str | None = None


def both_ways(first: str, second: str) -> tuple[Term, Term]:
    """The terms of a pair loss."""
    return Term(first, second), Term(second, first)


_VS = both_ways("video", "subtitle")
_VC = both_ways("video", "caption")
_FC = both_ways("frame", "caption")
_VSC = (
    Term("video", "subtitle", also="caption"),
    Term("video", "caption", also="subtitle"),
    Term("subtitle", "video"),
    Term("caption", "video"),
)

VARIANTS: Mapping[str, tuple[Term, ...]] = {
    "vs": _VS,
    "vs+fc": _VS + _FC,
    "vs+vc": _VS + _VC,
    "vs+vc+fc": _VS + _VC + _FC,
    "vsc+fc": _VSC + _FC,
    "vsc": _VSC,
}
"""The cross-entropies of each variant; the paper's (a) to (d) are "vs+fc", "vs+vc", "vs+vc+fc" and "vsc+fc"."""


def inputs_of(variant: str) -> set[str]:
    """The omnisource inputs of a variant: some of "video", "frame", "subtitle" and "caption"."""
    return {name for term in VARIANTS[variant] for name in term if name is not None}
