"""The retrieval protocol: which texts are queries, which videos the gallery, and which scores rank them.

Shapes: Q queries, V videos, K bank texts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from clipvip.errors import ManifestError, UsageError
from clipvip.evaluation.metrics import DIRECTIONS, Direction, Rivals, check_owners, check_similarity, count_rivals
from clipvip.evaluation.rescoring import apply_dual_softmax, apply_querybank_norm, check_bank
from clipvip.records import Clip, Embeddings

if TYPE_CHECKING:
    from clipvip.encode import EncoderProtocol


RivalCounts: TypeAlias = "dict[str, dict[Direction, Rivals]]"
"""By kind of score ("plain", "dsl", "qbnorm") and direction."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The raw outcome: similarity [Q, V], and for each query its text and its video's index.

    skipped: reasons by clip_id of what could not be decoded; such clips are in neither queries nor gallery.
    bank_similarity: [K, V] of the querybank's texts, if there is one.
    Raises: InputError for NaN, infinity, shapes and indices out of range: what works with it checks nothing again.
    """

    clips: tuple[Clip, ...]
    texts: tuple[str, ...]
    text_to_video: np.ndarray
    similarity: np.ndarray
    fingerprint: str
    skipped: Mapping[str, str] = field(default_factory=dict)
    bank_similarity: np.ndarray | None = None

    def __post_init__(self) -> None:
        similarity = check_similarity("similarity", self.similarity)
        object.__setattr__(self, "similarity", similarity)
        object.__setattr__(self, "text_to_video", check_owners(self.text_to_video, similarity.shape))
        if self.bank_similarity is not None:
            object.__setattr__(self, "bank_similarity", check_bank(self.bank_similarity, similarity.shape[1]))

    def groups(self, direction: Direction) -> np.ndarray | None:
        """Which queries a bootstrap draws together: the captions of a video; in v2t each video is one query."""
        return self.text_to_video if direction == "t2v" else None


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


def bank_texts(bank: Sequence[Clip], gallery: Sequence[Clip], *, join_captions: bool = False) -> tuple[str, ...]:
    """All captions of the bank's clips, as they would be queries; clips without any are passed over.

    A clip of the gallery in the bank is an error and no warning: the scores of a test video would then be made with
    that video's own captions, and the figure would be called bank-based while it is transductive. The same words for
    another video are none of that: short captions repeat.
    Raises: ManifestError if there is no text, or for a clip that is in the gallery too, by its clip_id or by its file
    and times.
    """
    ids = {clip.clip_id for clip in gallery}
    media = {_medium(clip): clip.clip_id for clip in gallery}
    for clip in bank:
        if not clip.captions:
            continue
        known = clip.clip_id if clip.clip_id in ids else media.get(_medium(clip))
        if known is not None:
            raise ManifestError(
                f"bank: clip {clip.clip_id!r} is in the test gallery too (as {known!r}), so its captions must not be "
                "in the bank; give a manifest of training clips, or their split"
            )
    texts = tuple(text for clip in bank for text in texts_of(clip, join_captions=join_captions))
    if not texts:
        raise ManifestError("bank: not one caption in it, so there is nothing to normalise by; give training captions")
    return texts


def _medium(clip: Clip) -> tuple[str, tuple[float, float] | None]:
    return os.path.abspath(clip.path), clip.time_range


def rank_retrieval(retrieval: Retrieval, *, rescore: Collection[str] = ()) -> RivalCounts:
    """The rivals of each true answer by raw score, "plain", and by each re-scoring; their `ranks` are the figures.

    "dsl": `dual_softmax`, t2v over texts, v2t over videos. "qbnorm": `querybank_norm` with `bank_similarity`, t2v
    alone: ranking texts for a video would need a bank of training videos, not texts.
    Raises: UsageError for an unknown re-scoring or without a bank.
    """
    similarity, owners = retrieval.similarity, retrieval.text_to_video
    rivals: RivalCounts = {"plain": {way: count_rivals(similarity, owners, way) for way in DIRECTIONS}}
    for kind in rescore:
        if kind == "dsl":  # one matrix at a time: each has the size of the similarity
            rivals[kind] = {
                "t2v": count_rivals(apply_dual_softmax(similarity, axis=0), owners, "t2v"),
                "v2t": count_rivals(apply_dual_softmax(similarity, axis=1), owners, "v2t"),
            }
        elif kind == "qbnorm":
            if retrieval.bank_similarity is None:
                raise UsageError("qbnorm needs a bank of training captions")
            rescored = apply_querybank_norm(similarity, retrieval.bank_similarity)
            rivals[kind] = {"t2v": count_rivals(rescored, owners, "t2v")}
        else:
            raise UsageError(f"re-scoring {kind!r}: choose dsl or qbnorm")
    return rivals


def label(kind: str, num_bank_texts: int = 0) -> str:
    """What a kind of scores is called wherever its figures stand, so that none passes for another."""
    return {
        "plain": "plain",
        "dsl": "transductive (DSL)",
        "qbnorm": f"bank-based (QB-Norm, {num_bank_texts:,} texts)",
    }[kind]


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
