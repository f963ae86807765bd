"""All that is reported of a retrieval, as one JSON object: figures, labels, intervals, ties, and what is missing."""

from __future__ import annotations

from typing import Any

from clipvip.evaluation.intervals import RESAMPLES, bootstrap_intervals
from clipvip.evaluation.metrics import DIRECTIONS, count_rivals, summarize_ranks
from clipvip.evaluation.protocol import Retrieval, chance_level, label, twin_accuracy
from clipvip.evaluation.released import released_metrics
from clipvip.evaluation.saved import Ranks, groups_of

CLOSE = 1e-6
"""Float32 scores of another batch size or another CPU differ by less: a rank decided by less is a matter of chance."""


def report_retrieval(retrieval: Retrieval, ranks: Ranks, *, ties: str, released: bool = False) -> dict[str, Any]:
    """Figures of the ranks that `rank_retrieval` gave under the policy `ties`; released: also as the released code.

    Returns: by kind of score ("plain", "dsl", "qbnorm") and direction what `summarize_ranks` has; "labels" of the
    kinds; "intervals" (95 %), [low, high] by kind, direction and name; "ties": the policy, and by direction how many
    queries have a wrong answer that scores as the true one ("tied") or within `CLOSE` of it ("close", tied included);
    "num_texts", "num_videos", "skipped", "chance", and "twin_accuracy" and "released" where they apply.
    Raises: InputError if the released protocol is wanted and a video has several texts.
    """
    similarity, owners = retrieval.similarity, retrieval.text_to_video
    bank = retrieval.bank_similarity
    twins = twin_accuracy(retrieval)
    return {
        "num_texts": len(retrieval.texts),
        "num_videos": len(retrieval.clips),
        "skipped": dict(retrieval.skipped),
        "ties": {
            "policy": ties,
            **{
                name: {
                    way: int((count_rivals(similarity, owners, way, within=within).equal > 0).sum())
                    for way in DIRECTIONS
                }
                for name, within in (("tied", 0.0), ("close", CLOSE))
            },
        },
        "chance": chance_level(len(retrieval.clips)),
        "labels": {kind: label(kind, 0 if bank is None else len(bank)) for kind in ranks},
        **{kind: {way: summarize_ranks(of) for way, of in ways.items()} for kind, ways in ranks.items()},
        "intervals": {
            "level": 0.95,
            "num_resamples": RESAMPLES,
            "drawn": "queries" if len(retrieval.texts) == len(retrieval.clips) else "videos, with all their captions",
            **{
                kind: {
                    way: {
                        name: [found.low, found.high]
                        for name, found in bootstrap_intervals(of, groups_of(retrieval, way)).items()
                    }
                    for way, of in ways.items()
                }
                for kind, ways in ranks.items()
            },
        },
        **({"twin_accuracy": twins} if twins is not None else {}),
        **({"released": released_metrics(similarity)} if released else {}),
    }
