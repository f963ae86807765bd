"""The retrieval protocol: which texts are queries, which videos the gallery, and what is reported.

Shapes: Q queries, V videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from clipvip.errors import ManifestError
from clipvip.evaluation.metrics import retrieval_metrics
from clipvip.evaluation.rescoring import dual_softmax
from clipvip.records import Clip, Embeddings


class RetrievalEncoder(Protocol):
    """What the protocol needs of `clipvip.Encoder`."""

    def encode_texts(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Unit-norm [Q, E]."""

    def encode_clips(
        self, clips: Sequence[Clip], *, progress: bool = False, on_decode_error: Literal["raise", "skip"] = "raise"
    ) -> Embeddings:
        """Unit-norm [V, E]."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The raw outcome: similarity [Q, V], and for each query its text and its video's index.

    skipped: reasons by clip_id of what could not be decoded; such clips are in neither queries nor gallery.
    """

    clips: tuple[Clip, ...]
    texts: tuple[str, ...]
    text_to_video: np.ndarray
    similarity: np.ndarray
    fingerprint: str
    skipped: Mapping[str, str] = field(default_factory=dict)


def run_retrieval(
    encoder: RetrievalEncoder,
    clips: Sequence[Clip],
    *,
    join_captions: bool = False,
    progress: bool = False,
    on_decode_error: Literal["raise", "skip"] = "raise",
) -> Retrieval:
    """Encode a gallery and its captions. Every caption is a query, or, with `join_captions`, each clip's paragraph.

    on_decode_error: "skip" leaves out the clips that cannot be decoded, with their captions: N is then another.
    Raises: ManifestError if a clip has no caption (leaving it out would change N silently); VideoDecodeError.
    """
    for clip in clips:
        if not clip.captions:
            raise ManifestError(f"{clip.clip_id}: no 'captions', so it cannot be evaluated; remove the clip or add one")
    gallery = encoder.encode_clips(clips, progress=progress, on_decode_error=on_decode_error)
    clips = [clip for clip in clips if clip.clip_id not in gallery.skipped]
    texts: list[str] = []
    owners: list[int] = []
    for index, clip in enumerate(clips):
        captions = (" ".join(clip.captions),) if join_captions else clip.captions
        texts += captions
        owners += [index] * len(captions)
    similarity = encoder.encode_texts(texts, progress=progress) @ gallery.vectors.T
    return Retrieval(tuple(clips), tuple(texts), np.array(owners), similarity, gallery.fingerprint, gallery.skipped)


def score_retrieval(retrieval: Retrieval, *, dsl: bool = True) -> dict[str, Any]:
    """{"plain", "dsl"} metrics of both directions, and "twin_accuracy" where the gallery has time-reversed twins.

    "dsl" (if wanted) is transductive: it needs all test queries at once (t2v normalises over texts, v2t over videos).
    """
    similarity, owners = retrieval.similarity, retrieval.text_to_video
    scores: dict[str, Any] = {"plain": retrieval_metrics(similarity, owners)}
    if dsl:
        over_texts, over_videos = dual_softmax(similarity, axis=0), dual_softmax(similarity, axis=1)
        scores["dsl"] = retrieval_metrics(over_texts, owners, similarity_v2t=over_videos)
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
