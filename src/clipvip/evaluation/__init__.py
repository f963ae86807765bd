"""Retrieval measured as the field does. NumPy in, numbers out: knows no model and imports no torch."""

from clipvip.evaluation.metrics import retrieval_metrics, retrieval_ranks
from clipvip.evaluation.protocol import Retrieval, chance_level, run_retrieval, score_retrieval, twin_accuracy
from clipvip.evaluation.rescoring import dual_softmax, querybank_norm

__all__ = [
    "Retrieval",
    "chance_level",
    "dual_softmax",
    "querybank_norm",
    "retrieval_metrics",
    "retrieval_ranks",
    "run_retrieval",
    "score_retrieval",
    "twin_accuracy",
]
