"""The table of planted bugs (`make test-mutations`)."""

from __future__ import annotations

import pytest

from mutations import MUTATIONS, Mutation, staleness


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_text_to_be_changed_is_there(mutation: Mutation) -> None:
    """Catches a table that stands still while the code moves on, and plants nothing any more."""
    assert staleness(mutation) is None
