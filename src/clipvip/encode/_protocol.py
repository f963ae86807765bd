"""What every encoder offers, whatever computes the vectors.

Shapes: N items, E embedding size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from clipvip.errors import InputError, VideoDecodeError

if TYPE_CHECKING:  # a `SubprocessEncoder` is started before anything large is imported
    import numpy as np

    from clipvip.model.processing_clipvip import Media
    from clipvip.records import Clip, Embeddings


@runtime_checkable
class EncoderProtocol(Protocol):
    """Files and texts to float32 vectors [N, E] of unit norm, in the order given.

    Implemented by `Encoder` (a model of this process), `SubprocessEncoder`, `BatchingEncoder`, `DistributedEncoder` and
    `clipvip.embedding_sets.EmbeddingSet`. progress: show a bar on stderr where there is something to wait for.
    """

    @property
    def fingerprint(self) -> str:
        """Identifies weights, processor and sampling: embeddings can be compared only if it agrees."""

    @property
    def embedding_size(self) -> int:
        """E."""

    @property
    def clip_duration_s(self) -> float | None:
        """Mean duration of the clips that the model was trained on; None if it is not recorded."""

    def encode_texts(self, texts: Iterable[str], *, progress: bool = False) -> np.ndarray:
        """Texts to [N, E]."""

    def encode_images(self, images: Iterable[Media], *, progress: bool = False) -> np.ndarray:
        """Images to [N, E], each as a video of one frame."""

    def encode_videos(self, videos: Iterable[Media], *, progress: bool = False) -> np.ndarray:
        """Videos, paths or (path, start_s, end_s), to [N, E]."""

    def encode_clips(
        self, clips: Sequence[Clip], *, progress: bool = False, on_decode_error: Literal["raise", "skip"] = "raise"
    ) -> Embeddings:
        """The clips of a manifest, videos and images alike; with "skip", those that can be decoded.

        Raises: VideoDecodeError for the first clip that cannot be decoded, or with "skip" if no clip is left.
        """


def as_list(what: str, items: Iterable[Any]) -> list[Any]:
    """The items of a call. Raises: InputError for a single item, which would be taken apart letter by letter."""
    if isinstance(items, str | Path) or (
        isinstance(items, tuple) and len(items) == 3 and not isinstance(items[1], str)
    ):
        raise InputError(f"{what}: expected a list, got one item: [{items!r}]?")
    return list(items)


def check_some_left(clips: Sequence[Clip], embeddings: Embeddings) -> None:
    """Raises: VideoDecodeError if there were clips, and all had to be left out."""
    if clips and not embeddings.ids:
        first = embeddings.skipped[clips[0].clip_id]
        raise VideoDecodeError(f"not one of {len(clips)} clips can be decoded; the first: {first}")


def text_batches(texts: Sequence[str], size: int) -> list[list[int]]:
    """The rows of each batch: texts of similar length share one, so that little is computed on padding."""
    rows = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    return [rows[start : start + size] for start in range(0, len(rows), size)]
