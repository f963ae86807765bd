"""The vision tower: CLIP's ViT, given video proxy tokens, a temporal embedding and proxy-guided attention.

Shapes: B batch, T frames, L patches a frame, M proxies, D width. Tokens stand proxies first, then frame by frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipvip.model.aggregators import proxy_guided_attention
from clipvip.model.config import FRAMEWISE, ClipVipConfig
from clipvip.model.layers import Encoder


class VisionEmbeddings(nn.Module):
    """Pixels to tokens: patches with spatial and temporal positions, proxies in front with spatial position 0."""

    proxy_tokens: nn.Parameter | None
    temporal_embedding: nn.Parameter | None

    def __init__(self, config: ClipVipConfig):
        super().__init__()
        vision = config.vision
        width, self.patch_size = vision.hidden_size, vision.patch_size
        num_patches = (vision.image_size // vision.patch_size) ** 2
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = nn.Conv2d(vision.num_channels, width, self.patch_size, self.patch_size, bias=False)
        self.position_embedding = nn.Embedding(num_patches + 1, width)
        framewise = config.aggregator in FRAMEWISE
        added = config.num_added_proxies
        self.register_parameter("proxy_tokens", nn.Parameter(torch.empty(added, width)) if added else None)
        self.register_parameter(
            "temporal_embedding", None if framewise else nn.Parameter(torch.empty(config.num_frames, width))
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, M + T*L, D]."""
        batch, num_frames = pixel_values.shape[:2]
        position = self.position_embedding.weight
        patches = self._patches(pixel_values) + position[1:]  # [B, T, L, D]
        if self.temporal_embedding is not None:
            patches = patches + self._temporal(num_frames)[:, None]
        proxies = self.class_embedding[None]
        if self.proxy_tokens is not None:
            proxies = torch.cat([proxies, self.proxy_tokens])
        proxies = (proxies + position[0]).expand(batch, -1, -1)  # [B, M, D]
        return torch.cat([proxies, patches.flatten(1, 2)], dim=1)

    def _patches(self, pixel_values: Tensor) -> Tensor:
        """The patch convolution as one matrix product, [B, T, 3, H, W] -> [B, T, L, D]."""
        size = self.patch_size
        grid = pixel_values.unflatten(-1, (-1, size)).unflatten(-3, (-1, size))  # [B, T, 3, h, p, w, p]
        grid = grid.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)  # [B, T, L, 3*p*p]
        weight = self.patch_embedding.weight
        return F.linear(grid.to(weight.dtype), weight.flatten(1))

    def _temporal(self, num_frames: int) -> Tensor:
        """Temporal positions for any T, [T, D]; other than the trained number: linear interpolation.

        One frame gets the middle position: the mean of the two middle rows for an even trained T.
        """
        temporal = self.temporal_embedding
        assert temporal is not None
        if num_frames == temporal.shape[0]:
            return temporal
        return F.interpolate(temporal.T[None], size=num_frames, mode="linear", align_corners=False)[0].T


class VisionTransformer(nn.Module):
    """The tower. The video's representation is proxy 0 of the last block, after the post layer norm."""

    def __init__(self, config: ClipVipConfig):
        super().__init__()
        vision = config.vision
        self.num_proxies = 1 + config.num_added_proxies
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)  # CLIP's own spelling
        self.encoder = Encoder(vision)
        self.post_layernorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, D]."""
        *layers, last = self.encoder.layers
        x = self._through(layers, pixel_values)
        first_proxy = last(x, F.scaled_dot_product_attention, query=x[:, :1])  # a proxy sees everything
        return self.post_layernorm(first_proxy[:, 0])

    def hidden_states(self, pixel_values: Tensor) -> Tensor:
        """Output of the last block for all tokens, [B, M + T*L, D], not normalised."""
        return self._through(self.encoder.layers, pixel_values)

    def _through(self, layers: Iterable[nn.Module], pixel_values: Tensor) -> Tensor:
        attend = partial(proxy_guided_attention, num_proxies=self.num_proxies, num_frames=pixel_values.shape[1])
        x = self.pre_layrnorm(self.embeddings(pixel_values))
        for layer in layers:
            x = layer(x, attend)
        return x
