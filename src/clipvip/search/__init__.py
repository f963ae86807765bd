"""A searchable library of videos: cut into segments, encoded, kept in LanceDB (`pip install "clipvip[search]"`)."""

from importlib.util import find_spec

from clipvip.errors import SearchIndexError

if not all(find_spec(name) for name in ("lancedb", "pyarrow", "pathspec")):
    raise SearchIndexError('a search index needs LanceDB: install it with `pip install "clipvip[search]"`')

from clipvip.search.index.maintenance import Status
from clipvip.search.index.schema import Segment, Settings, VideoRecord
from clipvip.search.index.update import IndexSummary
from clipvip.search.index.verification import Verification
from clipvip.search.library import Library
from clipvip.search.query.query import Filters, Query, Term
from clipvip.search.query.results import Hit, Results

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
