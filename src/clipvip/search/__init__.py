"""A searchable library of videos: cut into segments, encoded, kept in LanceDB (`pip install "clipvip[search]"`)."""

from clipvip.search.library import IndexSummary, Library
from clipvip.search.query import Filters, Query, Term
from clipvip.search.results import Hit, Results

__all__ = ["Filters", "Hit", "IndexSummary", "Library", "Query", "Results", "Term"]
