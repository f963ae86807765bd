"""The retrieval protocol: which texts are queries, which videos the gallery, and what is reported.

Shapes: Q queries, V videos, K bank texts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from clipvip.errors import ManifestError, UsageError
from clipvip.evaluation.metrics import DIRECTIONS, Direction, count_rivals, summarize_ranks
from clipvip.evaluation.rescoring import dual_softmax, querybank_norm
from clipvip.records import Clip, Embeddings

if TYPE_CHECKING:
    from clipvip.encode import EncoderProtocol


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The raw outcome: similarity [Q, V], and for each query its text and its video's index.

    skipped: reasons by clip_id of what could not be decoded; such clips are in neither queries nor gallery.
    bank_similarity: [K, V] of the querybank's texts, if there is one.
    """

    clips: tuple[Clip, ...]
    texts: tuple[str, ...]
    text_to_video: np.ndarray
    similarity: np.ndarray
    fingerprint: str
    skipped: Mapping[str, str] = field(default_factory=dict)
    bank_similarity: np.ndarray | None = None


def run_retrieval(
    encoder: EncoderProtocol,
    clips: Sequence[Clip],
    *,
    join_captions: bool = False,
    progress: bool = False,
    on_decode_error: Literal["raise", "skip"] = "raise",
    bank: Sequence[str] = (),
) -> Retrieval:
    """Encode a gallery and its captions. Every caption is a query, or, with `join_captions`, each clip's paragraph.

    on_decode_error: "skip" leaves out the clips that cannot be decoded, with their captions: N is then another.
    bank: texts of a querybank, to be scored on the same gallery.
    Raises: ManifestError if a clip has no caption (leaving it out would change N silently); VideoDecodeError.
    """
    for clip in clips:
        if not clip.captions:
            raise ManifestError(f"{clip.clip_id}: no 'captions', so it cannot be evaluated; remove the clip or add one")
    gallery = encoder.encode_clips(clips, progress=progress, on_decode_error=on_decode_error)
    encode_texts = partial(encoder.encode_texts, progress=progress)
    return score_gallery(gallery, clips, encode_texts, join_captions=join_captions, bank=bank)


def score_gallery(
    gallery: Embeddings,
    clips: Sequence[Clip],
    encode_texts: Callable[[tuple[str, ...]], np.ndarray],
    *,
    join_captions: bool = False,
    bank: Sequence[str] = (),
) -> Retrieval:
    """`run_retrieval` for clips that are encoded already; those that `gallery` skipped are left out."""
    clips = tuple(clip for clip in clips if clip.clip_id not in gallery.skipped)
    texts: list[str] = []
    owners: list[int] = []
    for index, clip in enumerate(clips):
        queries = texts_of(clip, join_captions=join_captions)
        texts += queries
        owners += [index] * len(queries)

    def score(texts: Sequence[str]) -> np.ndarray:
        # Each text is encoded once: equal texts have equal scores then, and no rounding breaks their tie.
        row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        scores = encode_texts(tuple(row_of)) @ gallery.vectors.T
        return scores if len(row_of) == len(texts) else scores[[row_of[text] for text in texts]]

    return Retrieval(
        clips,
        tuple(texts),
        np.array(owners),
        score(texts),
        gallery.fingerprint,
        gallery.skipped,
        score(bank) if bank else None,
    )


def texts_of(clip: Clip, *, join_captions: bool = False) -> tuple[str, ...]:
    """A clip's captions as queries: each, or all of them as one paragraph."""
    return (" ".join(clip.captions),) if join_captions and clip.captions else clip.captions


def rank_retrieval(
    retrieval: Retrieval, *, rescore: Collection[str] = (), ties: str = "average"
) -> dict[str, dict[Direction, np.ndarray]]:
    """The ranks (see `retrieval_ranks`) by raw score, "plain", and by each re-scoring that is wanted.

    "dsl": `dual_softmax`, t2v over texts, v2t over videos. "qbnorm": `querybank_norm` with `bank_similarity`, t2v
    alone: ranking texts for a video would need a bank of training videos, not texts.
    Raises: UsageError for an unknown re-scoring or without a bank; errors of `retrieval_ranks`.
    """
    similarity, owners = retrieval.similarity, retrieval.text_to_video
    ranks: dict[str, dict[Direction, np.ndarray]] = {"plain": {}}
    for direction in DIRECTIONS:
        ranks["plain"][direction] = count_rivals(similarity, owners, direction).ranks(ties)
    for kind in rescore:
        if kind == "dsl":  # one matrix at a time: each has the size of the similarity
            ranks[kind] = {
                "t2v": count_rivals(dual_softmax(similarity, axis=0), owners, "t2v").ranks(ties),
                "v2t": count_rivals(dual_softmax(similarity, axis=1), owners, "v2t").ranks(ties),
            }
        elif kind == "qbnorm":
            if retrieval.bank_similarity is None:
                raise UsageError("qbnorm needs a bank of training captions")
            rescored = querybank_norm(similarity, retrieval.bank_similarity)
            ranks[kind] = {"t2v": count_rivals(rescored, owners, "t2v").ranks(ties)}
        else:
            raise UsageError(f"re-scoring {kind!r}: choose dsl or qbnorm")
    return ranks


def label(kind: str, num_bank_texts: int = 0) -> str:
    """What a kind of scores is called wherever its figures stand, so that none passes for another."""
    return {
        "plain": "plain",
        "dsl": "transductive (DSL)",
        "qbnorm": f"bank-based (QB-Norm, {num_bank_texts:,} texts)",
    }[kind]


def score_retrieval(retrieval: Retrieval, *, dsl: bool = True) -> dict[str, Any]:
    """{"plain", "dsl"} metrics of both directions, and "twin_accuracy" where the gallery has time-reversed twins.

    "dsl" (if wanted) is transductive: it needs all test queries at once (t2v normalises over texts, v2t over videos).
    """
    ranks = rank_retrieval(retrieval, rescore=("dsl",) if dsl else ())
    scores: dict[str, Any] = {
        kind: {direction: summarize_ranks(of_queries) for direction, of_queries in directions.items()}
        for kind, directions in ranks.items()
    }
    twins = twin_accuracy(retrieval)
    if twins is not None:
        scores["twin_accuracy"] = twins
    return scores


def twin_accuracy(retrieval: Retrieval) -> float | None:
    """Percent of captions that score their own video above its time-reversed twin (ties count half; chance 50).

    A clip names its twin's clip_id in the manifest field `twin`. None if no twin is in the gallery.
    """
    position = {clip.clip_id: index for index, clip in enumerate(retrieval.clips)}
    own: list[float] = []
    other: list[float] = []
    for query, owner in enumerate(retrieval.text_to_video):
        twin = position.get(retrieval.clips[owner].extra.get("twin", ""))
        if twin is not None:
            own.append(retrieval.similarity[query, owner])
            other.append(retrieval.similarity[query, twin])
    if not own:
        return None
    difference = np.array(own) - np.array(other)
    return float(100.0 * np.mean((difference > 0) + 0.5 * (difference == 0)))


def chance_level(num_videos: int) -> dict[str, float]:
    """What random scores reach on a gallery of `num_videos` with one caption each, t2v."""
    return {f"R@{k}": 100.0 * min(k, num_videos) / num_videos for k in (1, 5, 10)} | {"MdR": (num_videos + 1) / 2}
