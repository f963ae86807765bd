"""What is taken from clients."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from clipvip.serve.schemas import FiltersBody, SearchParams


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-06-01", date(2024, 6, 1)),
        ("2024-06-01T00:00:00Z", datetime(2024, 6, 1, tzinfo=UTC)),
        ("2024-06-01T00:00:00+09:00", datetime(2024, 6, 1, tzinfo=timezone(timedelta(hours=9)))),
        ("2024-06-01 00:00-05:30", datetime(2024, 6, 1, tzinfo=timezone(-timedelta(hours=5, minutes=30)))),
        ("2024-06-01T12:30:00Z", datetime(2024, 6, 1, 12, 30, tzinfo=UTC)),
    ],
)
def test_moments_keep_their_offset(text, moment):
    """Catches midnight elsewhere that is taken for a day of the server's own."""
    for filters in (FiltersBody(after=text), SearchParams(q="a", after=text).to_filters()):
        assert (type(filters.after), filters.after) == (type(moment), moment)
        assert getattr(filters.after, "tzinfo", None) == getattr(moment, "tzinfo", None)


@pytest.mark.parametrize(
    "text", ["2024-06-01T00:00:00", "2024-06-01T12:00", "yesterday", "2024-06-31", "0001-01-01", ""]
)
def test_moments_that_could_be_any_time(text):
    """Catches a time without an offset that is taken for some time zone's."""
    with pytest.raises(ValidationError):
        FiltersBody(before=text)
