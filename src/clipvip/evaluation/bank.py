"""The texts of a querybank, and that none of them gives the test away."""

from __future__ import annotations

import os
from collections.abc import Sequence

from clipvip.errors import ManifestError
from clipvip.evaluation.protocol import texts_of
from clipvip.records import Clip


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
