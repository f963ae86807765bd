"""How frames become one video feature: who attends to whom, and how frame features are pooled.

Shapes: B batch, T frames, L patches a frame, M proxies, N = M + T*L tokens (proxies first), H heads, d head width,
E embedding size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def proxy_guided_attention(q: Tensor, k: Tensor, v: Tensor, num_proxies: int, num_frames: int) -> Tensor:
    """Attention in which a patch sees its own frame and all proxies, and a proxy sees everything.

    Decomposed, so that no [N, N] mask exists: one call for the proxies' M queries over all N tokens, one batched over
    frames for the patches, whose keys are the proxies' in front of the frame's own.

    q, k, v: [B, H, N, d]. Returns: [B, H, N, d]. Source: CLIP-ViP section 3.3, figure 3.
    """
    batch, heads, _, width = k.shape
    proxies = F.scaled_dot_product_attention(q[:, :, :num_proxies], k, v)  # [B, H, M, d]

    def by_frame(x: Tensor) -> Tensor:  # [B, H, N, d] -> [B, T, H, L, d]
        return x[:, :, num_proxies:].unflatten(2, (num_frames, -1)).transpose(1, 2)

    def with_proxies(x: Tensor) -> Tensor:  # [B, H, N, d] -> [B, T, H, M + L, d]
        shared = x[:, None, :, :num_proxies].expand(batch, num_frames, heads, num_proxies, width)
        return torch.cat([shared, by_frame(x)], dim=3)

    frames = F.scaled_dot_product_attention(
        by_frame(q).flatten(0, 1), with_proxies(k).flatten(0, 1), with_proxies(v).flatten(0, 1)
    )  # [B*T, H, L, d]
    patches = frames.unflatten(0, (batch, num_frames)).transpose(1, 2).flatten(2, 3)  # [B, H, T*L, d]
    return torch.cat([proxies, patches], dim=2)


def mean_pool(frame_features: Tensor) -> Tensor:
    """Average of unit-norm frame features, [B, T, E] -> [B, E] (CLIP4Clip's MeanPool; not normalised again here)."""
    return F.normalize(frame_features, dim=-1).mean(dim=1)
