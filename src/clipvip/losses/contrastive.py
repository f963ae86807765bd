"""InfoNCE over the global batch: a loss is a tuple of cross-entropy terms between named sources.

Shapes: B local batch, N global batch (all ranks), E embedding size.

Several processes: each rank gathers all features and computes the whole global loss (features are small), so the
value is the same on every rank. A `gather` whose backward sums over ranks makes the gradient of local features
`world` times too large, and averaging parameter gradients over ranks (DDP) divides by `world`: the result is exactly
the gradient of one process that holds the global batch, that of `logit_scale` included.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import reduce
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from clipvip.errors import InputError, UsageError
from clipvip.losses.variants import VARIANTS, Term, both_ways

Gather = Callable[[Tensor], Tensor]
"""[B, ...] of every rank -> [N, ...] in rank order, the same on every rank; its backward sums over ranks."""

REDUCTIONS = {"sum": 1.0, "mean": 0.5}
"""Weight of each cross-entropy: the released plain sum, or a pair loss that averages its two directions."""

T = TypeVar("T")


class Source(NamedTuple):
    """A source's global batch."""

    features: Tensor  # [N, E]; masked rows are 0
    valid: Tensor  # bool [N]


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
    A mask is given on every rank or on none. gather: see `Gather`; None = one process.

    Returns: scalar, computed in float32 or better (float64 features: float64).
    Raises: UsageError for an unknown variant or reduction; InputError for a feature that is missing, given without
    use, or of another shape than its partners.
    Source: CLIP-ViP, omnisource cross-modal learning, with the released code's weights for L_V,SC.
    """
    features = {"video": video, "frame": frame, "subtitle": subtitle, "caption": caption}
    masks = {"subtitle": subtitle_mask, "caption": caption_mask}
    return info_nce(choose("variant", variant, VARIANTS), features, masks, logit_scale, reduction, gather)


def contrastive_loss(
    video: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    gather: Gather | None = None,
) -> Tensor:
    """Symmetric InfoNCE of videos and texts over the global batch; the "vs" variant of `omnisource_loss`.

    video, text: unit-norm local features [B, E]; logit_scale: the parameter, log(1 / temperature), 0-d.
    reduction: "mean" averages the two directions, "sum" adds them (released code).
    mask: bool [B], False = no text (neither row nor column); on every rank or on none. gather: see `Gather`.

    Returns: scalar, computed in float32 or better; 0 if every text is masked.
    Raises: InputError for shapes and dtypes that do not fit; UsageError for an unknown reduction.
    Source: CLIP-ViP, omnisource cross-modal learning (L_VS).
    """
    terms = both_ways("video", "text")
    return info_nce(terms, {"video": video, "text": text}, {"text": mask}, logit_scale, reduction, gather)


def info_nce(
    terms: tuple[Term, ...],
    features: Mapping[str, Tensor | None],
    masks: Mapping[str, Tensor | None],
    logit_scale: Tensor,
    reduction: str,
    gather: Gather | None,
) -> Tensor:
    """Weighted sum of cross-entropies between named sources; arguments and errors as in `contrastive_loss`."""
    weight = choose("reduction", reduction, REDUCTIONS)
    used = check_inputs(terms, features, masks, logit_scale)
    dtype = reduce(torch.promote_types, (values.dtype for values in used.values()), torch.float32)
    with torch.autocast(logit_scale.device.type, enabled=False):  # it would take these products back to half precision
        scale = logit_scale.to(dtype).exp()
        batch = {name: global_source(values.to(dtype), masks.get(name), gather) for name, values in used.items()}
        losses = [
            cross_entropy(batch[term.query], batch[term.key], scale, batch[term.also] if term.also else None)
            for term in terms
        ]
    return weight * torch.stack(losses).sum()


def global_source(features: Tensor, mask: Tensor | None, gather: Gather | None) -> Source:
    """Local features [B, E] and mask bool [B] of one source -> its global batch."""
    if mask is not None:
        # 0 * NaN is NaN: weights alone would not keep what stands in a masked row out of the gradients.
        features = features.masked_fill(~mask[:, None], 0.0)
    gathered = features if gather is None else gather(features)
    if mask is None:
        return Source(gathered, torch.ones(len(gathered), dtype=torch.bool, device=gathered.device))
    return Source(gathered, mask if gather is None else gather(mask.to(features.dtype)) > 0)


def cross_entropy(query: Source, key: Source, scale: Tensor, also: Source | None = None) -> Tensor:
    """Mean of one `Term` over the rows whose query and key are both valid; 0, with a graph, if there is none."""
    num_rows = len(query.features)
    own = torch.eye(num_rows, dtype=torch.bool, device=scale.device)
    logits = scale * query.features @ key.features.T  # [N, N]
    # A masked key stays in its own row: that row counts for nothing, but it must be finite to have a zero gradient.
    logits = logits.masked_fill(~(key.valid | own), -torch.inf)
    if also is not None:
        others = scale * query.features @ also.features.T
        logits = torch.cat([logits, others.masked_fill(~also.valid | own, -torch.inf)], dim=1)  # [N, 2N]
    losses = F.cross_entropy(logits, torch.arange(num_rows, device=scale.device), reduction="none")  # [N]
    rows = query.valid & key.valid
    return torch.where(rows, losses, 0.0).sum() / rows.sum().clamp(min=1)


def check_inputs(
    terms: tuple[Term, ...],
    features: Mapping[str, Tensor | None],
    masks: Mapping[str, Tensor | None],
    logit_scale: Tensor,
) -> dict[str, Tensor]:
    """The features that the terms use, by source. Looks at shapes and dtypes only, so the host waits for nothing.

    Raises: InputError if a source is missing, given without use, or does not fit its mask or partners.
    """
    if logit_scale.ndim or not logit_scale.is_floating_point():
        raise InputError(f"logit_scale: {_describe(logit_scale)}, expected a floating-point scalar")
    wanted = {source for term in terms for source in term if source is not None}
    used: dict[str, Tensor] = {}
    for name, values in features.items():
        mask = masks.get(name)
        if name not in wanted:
            if values is not None or mask is not None:
                raise InputError(f"{name}: given, but this loss compares only {_join(wanted)}; pass None")
            continue
        if values is None:
            raise InputError(f"{name}: missing; this loss compares {_join(wanted)}")
        if values.ndim != 2 or not values.is_floating_point():
            raise InputError(f"{name}: {_describe(values)}, expected floating-point features [B, E]")
        if mask is not None and (mask.shape != values.shape[:1] or mask.dtype != torch.bool):
            raise InputError(f"mask of {name}: {_describe(mask)}, expected bool [{len(values)}], one entry a row")
        used[name] = values
    for term in terms:
        for name in (term.key, term.also or term.key):
            if used[name].shape != used[term.query].shape:
                expected = f"expected {list(used[term.query].shape)} like {term.query}, which it is compared with"
                raise InputError(f"{name}: {_describe(used[name])}, {expected}")
    return used


def choose(option: str, value: str, known: Mapping[str, T]) -> T:
    """`known[value]`. Raises: UsageError naming the known values, nearest first."""
    if value not in known:
        nearest = difflib.get_close_matches(value, known, n=len(known), cutoff=0.0)
        raise UsageError(f"{option}={value!r}: unknown; choose one of {', '.join(nearest)}")
    return known[value]


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _join(names: set[str]) -> str:
    return ", ".join(sorted(names))
