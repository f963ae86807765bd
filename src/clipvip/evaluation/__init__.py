"""Retrieval measured as the field does. NumPy in, numbers out: knows no model and imports no torch."""

from clipvip.evaluation.intervals import Interval, bootstrap_intervals, paired_difference
from clipvip.evaluation.metrics import retrieval_metrics, retrieval_ranks, summarize_ranks
from clipvip.evaluation.protocol import (
    Retrieval,
    bank_texts,
    chance_level,
    rank_retrieval,
    run_retrieval,
    score_gallery,
    texts_of,
    twin_accuracy,
)
from clipvip.evaluation.report import released_metrics, report_retrieval
from clipvip.evaluation.rescoring import dual_softmax, querybank_norm

__all__ = [
    "Interval",
    "Retrieval",
    "bank_texts",
    "bootstrap_intervals",
    "chance_level",
    "dual_softmax",
    "paired_difference",
    "querybank_norm",
    "rank_retrieval",
    "released_metrics",
    "report_retrieval",
    "retrieval_metrics",
    "retrieval_ranks",
    "run_retrieval",
    "score_gallery",
    "summarize_ranks",
    "texts_of",
    "twin_accuracy",
]
