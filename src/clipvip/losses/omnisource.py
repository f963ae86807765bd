"""Omnisource cross-modal learning: videos, middle frames, subtitles and auxiliary captions in one objective."""

from __future__ import annotations

from torch import Tensor

from clipvip.losses.contrastive import Gather, choose, info_nce
from clipvip.losses.variants import VARIANTS


def omnisource_loss(
    video: Tensor,
    frame: Tensor | None,
    subtitle: Tensor,
    caption: Tensor | None,
    logit_scale: Tensor,
    *,
    variant: str = "vsc+fc",
    reduction: str = "mean",
    subtitle_mask: Tensor | None = None,
    caption_mask: Tensor | None = None,
    gather: Gather | None = None,
) -> Tensor:
    """The sum of a variant's cross-entropies over the global batch.

    video, frame, subtitle, caption: unit-norm local features [B, E], None where the variant has no use for them.
    Frames and captions that meet only each other ("vs+fc") may have a batch of their own [B', E].
    logit_scale: the parameter, log(1 / temperature), 0-d.
    reduction: "sum" as released, or "mean", half of it: a pair loss is then the average of its two directions.
    subtitle_mask, caption_mask: bool [B] ([B'] with its features), False = no text. Such a text is neither row nor
    column, its features may hold anything; each cross-entropy is the mean over its valid global rows, 0 without one.
    A mask is given on every rank or on none. gather: see `contrastive.Gather`; None = one process.

    Returns: scalar, computed in float32 or better (float64 features: float64).
    Raises: UsageError for an unknown variant or reduction; InputError for a feature that is missing, given without
    use, or of another shape than its partners.
    Source: CLIP-ViP, omnisource cross-modal learning, with the released code's weights for L_V,SC.
    """
    features = {"video": video, "frame": frame, "subtitle": subtitle, "caption": caption}
    masks = {"subtitle": subtitle_mask, "caption": caption_mask}
    return info_nce(choose("variant", variant, VARIANTS), features, masks, logit_scale, reduction, gather)
