"""The vision tower: CLIP's ViT, given video proxy tokens, a temporal embedding and proxy-guided attention.

Shapes: B batch, T frames, L patches a frame, M proxies, D width. Tokens stand proxies first, then frame by frame.

What a video model adds to CLIP is small: for ViT-B/32 with M = 4 and T = 12, 2,304 proxy parameters ((M - 1) x D) and
9,216 temporal ones (T x D) beside the 87.5 million of the tower.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from clipvip.model.aggregators import proxy_guided_attention, temporal_positions
from clipvip.model.config import FRAMEWISE, ClipVipConfig
from clipvip.model.layers import Attend, Encoder
from clipvip.model.products import attention, in_autocast_dtype, linear


def cut_patches(pixel_values: Tensor, size: int) -> Tensor:
    """Frames to patches of pixels, [B, T, 3, H, W] -> [B, T, L, 3*size*size]: their convolution is then one product."""
    grid = pixel_values.unflatten(-1, (-1, size)).unflatten(-3, (-1, size))  # [B, T, 3, h, p, w, p]
    return grid.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)


class PatchEmbedding(nn.Conv2d):
    """CLIP's patch convolution (stride = kernel), computed as one matrix product."""

    def __init__(self, num_channels: int, width: int, size: int):
        super().__init__(num_channels, width, size, size, bias=False)
        self.size = size

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, T, L, D]."""
        pixel_values = in_autocast_dtype(pixel_values.to(self.weight.dtype))
        return linear(cut_patches(pixel_values, self.size), self.weight.flatten(1), None)


class VisionEmbeddings(nn.Module):
    """Pixels to tokens: patches with spatial and temporal positions, proxies in front with spatial position 0."""

    patch_embedding: nn.Module
    proxy_tokens: nn.Parameter | None
    temporal_embedding: nn.Parameter | None

    def __init__(self, config: ClipVipConfig):
        super().__init__()
        vision = config.vision
        width = vision.hidden_size
        num_patches = (vision.image_size // vision.patch_size) ** 2
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = PatchEmbedding(vision.num_channels, width, vision.patch_size)
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
        spatial = self.position_embedding.weight
        positions = spatial[1:]  # [L, D] or [T, L, D]: summed first, so that the (many) tokens are touched once
        if self.temporal_embedding is not None:
            positions = positions + temporal_positions(self.temporal_embedding, num_frames)[:, None]
        patches = self.patch_embedding(pixel_values) + positions  # [B, T, L, D]
        proxies = self.class_embedding[None]
        if self.proxy_tokens is not None:
            proxies = torch.cat([proxies, self.proxy_tokens])
        proxies = (proxies + spatial[0]).expand(batch, -1, -1)  # [B, M, D]
        return torch.cat([proxies, patches.flatten(1, 2)], dim=1)


class VisionTransformer(nn.Module):
    """The tower. The video's representation is proxy 0 of the last block, after the post layer norm."""

    def __init__(self, config: ClipVipConfig):
        super().__init__()
        vision = config.vision
        self.num_proxies = 1 + config.num_added_proxies
        self.proxy_guided = config.aggregator == "vip"
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)  # CLIP's own spelling
        self.encoder = Encoder(vision)
        self.post_layernorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, D]."""
        *layers, last = self.encoder.layers
        x = self._through(layers, pixel_values)
        first_proxy = last(x, attention, query=x[:, :1])  # a proxy sees everything
        return self.post_layernorm(first_proxy[:, 0])

    def hidden_states(self, pixel_values: Tensor) -> Tensor:
        """Output of the last block for all tokens, [B, M + T*L, D], not normalised."""
        return self._through(self.encoder.layers, pixel_values)

    def _through(self, layers: Iterable[nn.Module], pixel_values: Tensor) -> Tensor:
        attend: Attend = attention
        num_frames = pixel_values.shape[1]
        if self.proxy_guided and num_frames > 1:  # within one frame everything sees everything
            attend = partial(proxy_guided_attention, num_proxies=self.num_proxies, num_frames=num_frames)
        x = self.pre_layrnorm(self.embeddings(pixel_values))
        for layer in layers:
            x = layer(x, attend)
        return x
