"""How frames become one video feature: who attends to whom, and how frame features are pooled.

Shapes: B batch, T frames, L patches a frame, M proxies, N = M + T*L tokens (proxies first), H heads, d head width,
E embedding size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipvip.model.config import ClipVipConfig
from clipvip.model.layers import Encoder
from clipvip.model.products import attention


def proxy_guided_attention(q: Tensor, k: Tensor, v: Tensor, num_proxies: int, num_frames: int) -> Tensor:
    """Attention in which a patch sees its own frame and all proxies, and a proxy sees everything.

    Decomposed, so that no [N, N] mask exists: one call for the proxies' M queries over all N tokens, one batched over
    frames for the patches, whose keys are the proxies' in front of the frame's own.

    q, k, v: [B, N, H, d]. Returns: [B, N, H, d]. Source: CLIP-ViP section 4.2, figure 2.
    """
    (q_proxies, q_patches), (k_proxies, k_patches), (v_proxies, v_patches) = (
        x.split((num_proxies, x.shape[1] - num_proxies), dim=1)
        for x in (q, k, v)  # not slices: cheaper backward
    )

    def by_frame(patches: Tensor) -> Tensor:  # [B, T*L, H, d] -> [B, T, L, H, d]
        return patches.unflatten(1, (num_frames, -1))

    def with_proxies(proxies: Tensor, patches: Tensor) -> Tensor:  # -> [B*T, M + L, H, d]
        shared = proxies[:, None].expand(-1, num_frames, -1, -1, -1)
        return torch.cat([shared, by_frame(patches)], dim=2).flatten(0, 1)

    proxies = attention(q_proxies, k, v)  # [B, M, H, d]
    frames = attention(
        by_frame(q_patches).flatten(0, 1), with_proxies(k_proxies, k_patches), with_proxies(v_proxies, v_patches)
    )  # [B*T, L, H, d]
    return torch.cat([proxies, frames.unflatten(0, (len(q), num_frames)).flatten(1, 2)], dim=1)


def mean_pool(frame_features: Tensor) -> Tensor:
    """Average of unit-norm frame features, [B, T, E] -> [B, E] (CLIP4Clip's MeanPool; not normalised again here)."""
    return F.normalize(frame_features, dim=-1).mean(dim=1)


def temporal_positions(rows: Tensor, num_frames: int) -> Tensor:
    """Positions for any number of frames, [T', D] -> [T, D]: linear interpolation if it is not the trained number.

    One frame gets the middle position: the mean of the two middle rows for an even T'.
    """
    if num_frames == len(rows):
        return rows
    return F.interpolate(rows.T[None], size=num_frames, mode="linear", align_corners=False)[0].T


class TemporalTransformer(nn.Module):
    """The `transformer` aggregator: frame features see each other, with temporal positions and a residual.

    Source: CLIP4Clip (arXiv 2104.08860), section 3.3, "sequential type: transformer" (seqTransf in its code).
    """

    def __init__(self, config: ClipVipConfig):
        super().__init__()
        tower = config.temporal
        self.temporal_embedding = nn.Parameter(torch.empty(config.num_frames, tower.hidden_size))
        self.encoder = Encoder(tower)

    def forward(self, frames: Tensor) -> Tensor:
        """Frame features [B, T, E] -> [B, T, E]."""
        x = frames + temporal_positions(self.temporal_embedding, frames.shape[1])
        for layer in self.encoder.layers:
            x = layer(x, attention)
        return frames + x
