"""A searchable library of videos: cut into segments, encoded, kept in LanceDB (`pip install "clipvip[search]"`)."""

from importlib.util import find_spec

from clipvip.errors import SearchIndexError

if not all(find_spec(name) for name in ("lancedb", "pyarrow", "pathspec")):
    raise SearchIndexError('a search index needs LanceDB: install it with `pip install "clipvip[search]"`')

from clipvip.search.adding import IndexSummary
from clipvip.search.library import Library
from clipvip.search.query import Filters, Query, Term
from clipvip.search.results import Hit, Results
from clipvip.search.tables import Segment, Settings, VideoRecord
from clipvip.search.upkeep import Status
from clipvip.search.verifying import Verification

__all__ = [
    "Filters",
    "Hit",
    "IndexSummary",
    "Library",
    "Query",
    "Results",
    "Segment",
    "Settings",
    "Status",
    "Term",
    "Verification",
    "VideoRecord",
]
