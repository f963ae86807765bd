"""A searchable library of videos: cut into segments, encoded, kept in LanceDB (`pip install "clipvip[search]"`)."""

from clipvip.search.library import Hit, IndexSummary, Library

__all__ = ["Hit", "IndexSummary", "Library"]
