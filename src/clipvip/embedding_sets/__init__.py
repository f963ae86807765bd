"""Embeddings of a whole manifest in Parquet files: made once, by a job that survives any kill, and used many times."""

from clipvip.embedding_sets.make import encode_manifest
from clipvip.embedding_sets.read import EmbeddingSet, open_embeddings

__all__ = ["EmbeddingSet", "encode_manifest", "open_embeddings"]
