"""A searchable library of videos: cut into segments, encoded, kept in LanceDB (`pip install "clipvip[search]"`)."""

from importlib.util import find_spec

from clipvip.errors import SearchIndexError

if not all(find_spec(name) for name in ("lancedb", "pyarrow", "pathspec")):
    raise SearchIndexError('a search index needs LanceDB: install it with `pip install "clipvip[search]"`')

from clipvip.search.index.maintenance import Failure, RootStatus, Status
from clipvip.search.index.records import Segment, VideoRecord
from clipvip.search.index.scan import is_gone
from clipvip.search.index.schema import Settings
from clipvip.search.index.update import IndexSummary
from clipvip.search.index.verification import Verification
from clipvip.search.library import Library
from clipvip.search.query.calibration import default_texts, read_texts
from clipvip.search.query.query import Filters, Hit, Query, Results, Term, VideoPart

__all__ = [
    "Failure",
    "Filters",
    "Hit",
    "IndexSummary",
    "Library",
    "Query",
    "Results",
    "RootStatus",
    "Segment",
    "Settings",
    "Status",
    "Term",
    "Verification",
    "VideoPart",
    "VideoRecord",
    "default_texts",
    "is_gone",
    "read_texts",
]
