"""A searchable library of videos: cut into segments, encoded, kept in LanceDB (`pip install "clipvip[search]"`)."""

from clipvip.search.library import IndexSummary, Library
from clipvip.search.query import Filters, Query, Term
from clipvip.search.results import Hit, Results
from clipvip.search.store import Segment, Settings, VideoRecord

__all__ = [
    "Filters",
    "Hit",
    "IndexSummary",
    "Library",
    "Query",
    "Results",
    "Segment",
    "Settings",
    "Term",
    "VideoRecord",
]
