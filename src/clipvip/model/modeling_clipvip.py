"""The model: CLIP's two towers, and what CLIP-ViP adds so that the vision tower sees video (arXiv 2209.06430).

It is plain PyTorch and reads from top to bottom: attention patterns, one transformer block, the text tower, the vision
tower, the temporal transformer of one ablation, and `ClipVipCore`, which puts them together. Parameters have the names
of transformers' CLIP. `kernels/` has faster replacements for some of these modules, `pretrained.py` the transformers
model `ClipVipModel`.

Shapes: B videos, or texts; T frames; L patches per frame; M proxies, of which proxy 0 is CLIP's class token; N tokens:
of a video M + T*L, proxies first, then frame by frame, of a text its length; Q <= N query tokens; D width of a tower;
H heads; d = D / H; E embedding size. In `ClipVipCore`, where videos and texts meet, there are B videos and N texts.

What a video model adds to CLIP is small: for ViT-B/32 with M = 4 and T = 12, 2,304 proxy parameters ((M - 1) x D) and
9,216 temporal ones (T x D), next to the 87.5 million of the tower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipvip.model.configuration_clipvip import FRAMEWISE, ClipVipConfig, TextConfig, TowerConfig, VisionConfig

MAX_LOGIT_SCALE = math.log(200.0)
PROXY_NOISE = 0.3
"""Noise in the initial values of added proxies, in standard deviations of the class embedding: they must differ."""
NEW_PARAMETERS = (
    "vision_model.embeddings.proxy_tokens",
    "vision_model.embeddings.temporal_embedding",
    "temporal_transformer.",
)
"""Prefixes of what a video model adds to CLIP: absent from image-text weights, with a learning rate of their own."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""An attention pattern, which token attends to which: (q [B, Q, H, d], k [B, N, H, d], v [B, N, H, d]) -> [B, Q, H, d].
A tower hands one to its blocks; positions that rotate queries and keys would be a pattern, too."""


# Attention patterns


def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Scaled dot-product attention: every query attends to every key, unless a mask forbids it.

    Args:
        q: Queries [B, Q, H, d], as the projection leaves them.
        k: Keys [B, N, H, d].
        v: Values [B, N, H, d].
        attn_mask: bool, broadcastable to [B, H, Q, N], true where a query attends to a key.
        is_causal: Queries attend to no later key (Q = N).
    Returns: [B, Q, H, d].
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [B, H, Q, d], [B, H, N, d], [B, H, N, d]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal).transpose(1, 2)


def proxy_guided_attention(
    q: Tensor, k: Tensor, v: Tensor, num_proxies: int, num_frames: int, plain: Callable[..., Tensor] = attention
) -> Tensor:
    """Proxies attend to all tokens; a patch attends to the patches of its own frame and to all proxies.

    Two calls of plain attention instead of one with an [N, N] mask: the M proxy queries over all N tokens, and the
    patches frame by frame, with the proxies' keys in front of the frame's own.

    Args:
        q: Queries [B, M + T*L, H, d].
        k: Keys [B, M + T*L, H, d].
        v: Values [B, M + T*L, H, d].
        num_proxies: M.
        num_frames: T.
        plain: Computes attention without a pattern: `attention`, or a faster function in its place.
    Returns: [B, M + T*L, H, d].
    Source: CLIP-ViP section 4.2, figure 2.
    """
    sizes = (num_proxies, q.shape[1] - num_proxies)
    (q_proxies, q_patches), (k_proxies, k_patches), (v_proxies, v_patches) = (x.split(sizes, dim=1) for x in (q, k, v))

    def split_frames(patches: Tensor) -> Tensor:
        return patches.unflatten(1, (num_frames, -1))  # [B, T*L, H, d] -> [B, T, L, H, d]

    def with_proxies(proxies: Tensor, patches: Tensor) -> Tensor:
        for_each_frame = proxies[:, None].expand(-1, num_frames, -1, -1, -1)  # [B, M, H, d] -> [B, T, M, H, d]
        return torch.cat([for_each_frame, split_frames(patches)], dim=2).flatten(0, 1)  # [B*T, M + L, H, d]

    proxies = plain(q_proxies, k, v)  # [B, M, H, d]
    q_frames = split_frames(q_patches).flatten(0, 1)  # [B*T, L, H, d]
    frames = plain(q_frames, with_proxies(k_proxies, k_patches), with_proxies(v_proxies, v_patches))  # [B*T, L, H, d]
    patches = frames.unflatten(0, (q.shape[0], num_frames)).flatten(1, 2)  # [B*T, L, H, d] -> [B, T*L, H, d]
    return torch.cat([proxies, patches], dim=1)  # [B, M + T*L, H, d]


# The transformer block, the same in all towers


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's approximation of GELU: x * sigmoid(1.702 * x).

    Written with SiLU, which is y * sigmoid(y): one tensor is allocated instead of three, and training keeps one.
    """
    scaled = 1.702 * x
    return F.silu(scaled, inplace=not scaled.requires_grad).div_(1.702)


ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    **dict.fromkeys(("gelu", "gelu_python"), F.gelu),
    **dict.fromkeys(("gelu_pytorch_tanh", "gelu_new", "gelu_fast"), partial(F.gelu, approximate="tanh")),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    **dict.fromkeys(("silu", "swish"), F.silu),
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": lambda x: x,
}


class Attention(nn.Module):
    """Multi-head attention; the tower says which token attends to which (`attend`)."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, query: Tensor, x: Tensor, attend: Attend) -> Tensor:
        """Queries from `query` [B, Q, D], keys and values from x [B, N, D] -> [B, Q, D]."""
        q = self.q_proj(query).unflatten(-1, (self.num_heads, -1))  # [B, Q, H, d]
        k = self.k_proj(x).unflatten(-1, (self.num_heads, -1))  # [B, N, H, d]
        v = self.v_proj(x).unflatten(-1, (self.num_heads, -1))  # [B, N, H, d]
        return self.out_proj(attend(q, k, v).flatten(2))  # [B, Q, H, d] -> [B, Q, D]


class MLP(nn.Module):
    """Two linear layers with the configured activation between them."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.hidden_act = config.hidden_act
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        act = ACTIVATION_FUNCTIONS[self.hidden_act]
        return self.fc2(act(self.fc1(x)))  # [B, N, D] -> [B, N, intermediate_size] -> [B, N, D]


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch; some image-text models have it, CLIP does not."""

    def __init__(self, width: int, initial: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return x * self.gamma


def make_norm(config: TowerConfig) -> nn.Module:
    """The normalisation of a tower's blocks."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class Block(nn.Module):
    """Pre-norm transformer block.

    layer_scale: initial value of a `LayerScale` on both residual branches; None: there is none.
    """

    gradient_checkpointing = False  # this and the next are set by transformers' gradient_checkpointing_enable()
    _gradient_checkpointing_func: Callable[..., Any] = staticmethod(partial(checkpoint, use_reentrant=False))

    def __init__(self, config: TowerConfig, layer_scale: float | None = None):
        super().__init__()
        self.layer_norm1 = make_norm(config)
        self.self_attn = Attention(config)
        self.layer_norm2 = make_norm(config)
        self.mlp = MLP(config)
        width = config.hidden_size
        self.scale1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.scale2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)

    def forward(self, x: Tensor, attend: Attend, query: Tensor | None = None) -> Tensor:
        """One block.

        In the last block most outputs are not used: all tokens still serve as keys and values there, but only the
        pooled one needs a query and the MLP. Same output, same gradients, less work.

        Args:
            x: [B, N, D].
            attend: Which token attends to which.
            query: [B, Q, D], the tokens whose output is needed; None: all of them.
        Returns: [B, N, D], or [B, Q, D] with `query`.
        """
        keys = self.layer_norm1(x)  # [B, N, D]
        if query is None:
            query, normed = x, keys
        else:
            normed = self.layer_norm1(query)  # [B, Q, D]
        query = query + self.scale1(self.self_attn(normed, keys, attend))  # [B, Q, D]
        return query + self.scale2(self.mlp(self.layer_norm2(query)))  # [B, Q, D]

    def __call__(self, x: Tensor, attend: Attend, query: Tensor | None = None) -> Any:
        """With gradient checkpointing, activations are computed again in the backward pass instead of being kept."""
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(super().__call__, x, attend, query)
        return super().__call__(x, attend, query)


class Encoder(nn.Module):
    """The stack of blocks, which towers run with `run_blocks`: what the last one computes is theirs to say."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, attend: Attend) -> Tensor:
    """[B, N, D] -> [B, N, D]."""
    for block in blocks:
        x = block(x, attend)
    return x


# The text tower


class TextEmbeddings(nn.Module):
    """Token plus position embedding."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        """[B, N] -> [B, N, D]."""
        return self.token_embedding(input_ids) + self.position_embedding.weight[: input_ids.shape[1]]


class TextTransformer(nn.Module):
    """CLIP's text tower. Attention is causal, so what follows the first end token cannot change the pooled output."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.eos_token_id = config.eos_token_id
        self.attention = attention  # how attention is computed; a kernel may take its place
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = make_norm(config)

    def forward(self, input_ids: Tensor) -> Tensor:
        """[B, N] -> [B, D]: the final state at the first end token of each text."""
        end = (input_ids == self.eos_token_id).int().argmax(dim=1, keepdim=True)  # [B, 1], the first maximum
        up_to_end = torch.arange(input_ids.shape[1], device=end.device) <= end  # [B, N]
        attend = partial(self.attention, attn_mask=up_to_end[:, None, None])
        *blocks, last = self.encoder.layers
        x = run_blocks(blocks, self.embeddings(input_ids), self._causal())  # [B, N, D]
        at_end = x.gather(1, end[:, :, None].expand(-1, -1, x.shape[2]))  # [B, 1, D]
        return self.final_layer_norm(last(x, attend, query=at_end)[:, 0])  # [B, D]

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """Final layer-normed states of all tokens, [B, N, D]."""
        return self.final_layer_norm(run_blocks(self.encoder.layers, self.embeddings(input_ids), self._causal()))

    def _causal(self) -> Attend:
        return partial(self.attention, is_causal=True)


# The vision tower


def interpolate_positions(positions: Tensor, num_frames: int) -> Tensor:
    """Temporal positions for any number of frames, [T', D] -> [T, D]: linear interpolation if T is not T'.

    One frame gets the middle position: the mean of the two middle rows for an even T'.
    """
    if num_frames == len(positions):
        return positions
    return F.interpolate(positions.T[None], size=num_frames, mode="linear", align_corners=False)[0].T


class VisionEmbeddings(nn.Module):
    """Pixels to tokens: patches with spatial and temporal positions, proxies in front with the class token's position.

    Frame-wise aggregators have no temporal embedding here, and the class token as their only proxy.
    """

    proxy_tokens: nn.Parameter | None
    temporal_embedding: nn.Parameter | None

    def __init__(self, config: ClipVipConfig):
        super().__init__()
        vision = VisionConfig.of(config.vision_config)
        width, patch = vision.hidden_size, vision.patch_size
        num_patches = (vision.image_size // patch) ** 2
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = nn.Conv2d(vision.num_channels, width, kernel_size=patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding(num_patches + 1, width)
        self.proxy_tokens = self.temporal_embedding = None
        if config.num_added_proxies:
            self.proxy_tokens = nn.Parameter(torch.empty(config.num_added_proxies, width))
        if config.aggregator not in FRAMEWISE:
            self.temporal_embedding = nn.Parameter(torch.empty(config.num_frames, width))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, T, 3, height, width] -> [B, M + T*L, D]."""
        batch, num_frames = pixel_values.shape[:2]
        frames = pixel_values.flatten(0, 1).to(self.class_embedding.dtype)  # [B*T, 3, height, width]
        patches = self.patch_embedding(frames).flatten(2).transpose(1, 2)  # [B*T, D, h, w] -> [B*T, L, D]
        spatial = self.position_embedding.weight  # [1 + L, D], the class token's first
        positions = spatial[1:]  # [L, D]
        if self.temporal_embedding is not None:
            temporal = interpolate_positions(self.temporal_embedding, num_frames)  # [T, D]
            positions = positions + temporal[:, None]  # [T, L, D]
        patches = patches.unflatten(0, (batch, num_frames)) + positions  # [B, T, L, D]
        proxies = self.class_embedding[None]  # [1, D]
        if self.proxy_tokens is not None:
            proxies = torch.cat([proxies, self.proxy_tokens])  # [M, D]
        proxies = (proxies + spatial[0]).expand(batch, -1, -1)  # [B, M, D]
        return torch.cat([proxies, patches.flatten(1, 2)], dim=1)  # [B, M + T*L, D]


class VisionTransformer(nn.Module):
    """CLIP's vision tower on the tokens of a whole video. Its output is proxy 0 of the last block, layer-normed."""

    def __init__(self, config: ClipVipConfig):
        super().__init__()
        vision = VisionConfig.of(config.vision_config)
        self.aggregator = config.aggregator
        self.num_proxies = 1 + config.num_added_proxies
        self.attention = attention  # how attention is computed; a kernel may take its place
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = make_norm(vision)  # CLIP's own spelling
        self.encoder = Encoder(vision)
        self.post_layernorm = make_norm(vision)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, T, 3, height, width] -> [B, D]."""
        *blocks, last = self.encoder.layers
        x = run_blocks(blocks, self._tokens(pixel_values), self._pattern(pixel_values.shape[1]))  # [B, M + T*L, D]
        first_proxy = last(x, self.attention, query=x[:, :1])  # [B, 1, D]; a proxy attends to all tokens
        return self.post_layernorm(first_proxy[:, 0])  # [B, D]

    def hidden_states(self, pixel_values: Tensor) -> Tensor:
        """Output of the last block for all tokens, [B, M + T*L, D], not normalised."""
        return run_blocks(self.encoder.layers, self._tokens(pixel_values), self._pattern(pixel_values.shape[1]))

    def _tokens(self, pixel_values: Tensor) -> Tensor:
        return self.pre_layrnorm(self.embeddings(pixel_values))

    def _pattern(self, num_frames: int) -> Attend:
        """The attention pattern of all blocks but the last."""
        if self.aggregator == "vip" and num_frames > 1:  # within a single frame, it is plain attention
            return partial(
                proxy_guided_attention, num_proxies=self.num_proxies, num_frames=num_frames, plain=self.attention
            )
        return self.attention


# Frame-wise aggregators, `mean` and `transformer`: frames are encoded one by one, and their features are averaged


class TemporalTransformer(nn.Module):
    """The `transformer` aggregator: frame features attend to each other, with temporal positions and a residual.

    Its blocks are like the text tower's, from which their weights are copied where the sizes fit.

    Source: CLIP4Clip (arXiv 2104.08860), section 3.3, "sequential type: transformer" (seqTransf in its code).
    """

    def __init__(self, config: TextConfig, num_frames: int):
        super().__init__()
        self.attention = attention  # how attention is computed; a kernel may take its place
        self.temporal_embedding = nn.Parameter(torch.empty(num_frames, config.hidden_size))
        self.encoder = Encoder(config)

    def forward(self, frames: Tensor) -> Tensor:
        """Frame features [B, T, E] -> [B, T, E]."""
        x = frames + interpolate_positions(self.temporal_embedding, frames.shape[1])
        return frames + run_blocks(self.encoder.layers, x, self.attention)


def mean_pool(frames: Tensor) -> Tensor:
    """Mean of unit-norm frame features, [B, T, E] -> [B, E] (CLIP4Clip's MeanPool; the mean is not of unit norm)."""
    return F.normalize(frames, dim=-1).mean(dim=1)


# Both towers together


class ClipVipFeatures(NamedTuple):
    """video_embeds [B, E], text_embeds [N, E] (unit norm), logits_per_video [B, N], logits_per_text [N, B]."""

    video_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logits_per_video: Tensor | None = None
    logits_per_text: Tensor | None = None


class ClipVipCore(nn.Module):
    """CLIP-ViP in plain PyTorch: both towers, their projections and the temperature.

    `state_dict()` has the keys of transformers' CLIP plus `vision_model.embeddings.proxy_tokens` [M-1, D] and
    `vision_model.embeddings.temporal_embedding` [T, D] (each of them only if the aggregator uses it), and
    `temporal_transformer.*` with the `transformer` aggregator.
    """

    def __init__(self, config: ClipVipConfig, *, initialize: bool = True):
        """initialize: False leaves the parameters for a checkpoint to fill."""
        super().__init__()
        self.config = config
        self.build(config)
        if initialize:
            self.apply(self.init_module)

    def build(self, config: ClipVipConfig) -> None:
        """Add all modules; their parameters are not initialised yet. Raises: ConfigError as `ClipVipConfig`."""
        config.validate_architecture()  # transformers sets fields without a check
        text, vision = TextConfig.of(config.text_config), VisionConfig.of(config.vision_config)
        self.framewise = config.aggregator in FRAMEWISE
        self.text_model = TextTransformer(text)
        self.vision_model = VisionTransformer(config)
        self.visual_projection = nn.Linear(vision.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(text.hidden_size, config.projection_dim, bias=False)
        self.temporal_transformer = None
        if config.aggregator == "transformer":
            self.temporal_transformer = TemporalTransformer(config.temporal, config.num_frames)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.logit_scale.dtype

    def encode_video(self, pixel_values: Tensor, normalize: bool = True) -> Tensor:
        """Video (or image) features.

        Args:
            pixel_values: float [B, T, 3, height, width], normalised as the processor does; [B, 3, height, width] are
                images = videos of one frame. Values are not checked: a NaN pixel gives NaN features.
            normalize: Whether features have unit norm; they are then float32 at least.
        Returns: [B, E].
        Raises: InputError for another shape or dtype.
        """
        self.config.check_pixel_values(pixel_values)
        if pixel_values.ndim == 4:
            pixel_values = pixel_values[:, None]  # [B, 3, height, width] -> [B, 1, 3, height, width]
        if not self.framewise:
            features = self.visual_projection(self.vision_model(pixel_values))  # [B, E]
        else:
            each_frame = pixel_values.flatten(0, 1)[:, None]  # [B*T, 1, 3, height, width]
            frames = self.visual_projection(self.vision_model(each_frame))  # [B*T, E]
            frames = frames.unflatten(0, pixel_values.shape[:2])  # [B, T, E]
            if self.temporal_transformer is not None:
                frames = self.temporal_transformer(frames)
            features = mean_pool(frames)  # [B, E]
        return to_unit_norm(features) if normalize else features

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None, normalize: bool = True) -> Tensor:
        """Text features.

        Attention is causal and pooling happens at the first end token, so padding cannot change the result. On the CPU
        the mask only serves to cut the batch to its longest text. On other devices values are not checked, because the
        program would have to wait for them: the mask is not used, and a row without an end token gives NaN.

        Args:
            input_ids: int [N, tokens], each row with an end token.
            attention_mask: [N, tokens], 1 = real token; padding is on the right.
            normalize: Whether features have unit norm; they are then float32 at least.
        Returns: [N, E].
        Raises: InputError for another shape or dtype, more tokens than there are positions, or (on the CPU only) a
            token outside the vocabulary, a row without an end token, or padding that is not on the right.
        """
        self.config.check_input_ids(input_ids, attention_mask)
        values_are_checked = input_ids.device.type == "cpu" and not torch.compiler.is_exporting()
        if values_are_checked:
            length = self.config.check_tokens(input_ids, attention_mask)
            input_ids = input_ids[:, :length]
        features = self.text_projection(self.text_model(input_ids))  # [N, E]
        if not values_are_checked:
            ended = (input_ids == self.text_model.eos_token_id).any(1, keepdim=True)  # [N, 1]
            features = torch.where(ended, features, torch.nan)
        return to_unit_norm(features) if normalize else features

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Any:
        """Features of what is given, and if both are, their similarities divided by the temperature.

        Returns: `ClipVipFeatures`.
        Raises: InputError as `encode_video` and `encode_text`, and if nothing is given.
        """
        self.config.check_some_input(pixel_values, input_ids)
        video = None if pixel_values is None else self.encode_video(pixel_values)  # [B, E]
        text = None if input_ids is None else self.encode_text(input_ids, attention_mask)  # [N, E]
        per_text = None if video is None or text is None else self.logit_scale.exp() * text @ video.T  # [N, B]
        return ClipVipFeatures(video, text, None if per_text is None else per_text.T, per_text)

    def get_video_features(self, pixel_values: Tensor) -> Tensor:
        """`encode_video` without the last normalisation, under transformers' name: [B, E].

        Frame-wise aggregators average features of unit norm, so those of single frames have unit norm all the same.
        """
        return self.encode_video(pixel_values, normalize=False)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """`get_video_features` of images [B, 3, height, width] -> [B, E]."""
        return self.encode_video(pixel_values, normalize=False)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """`encode_text` without normalisation, under transformers' name: [N, E]."""
        return self.encode_text(input_ids, attention_mask, normalize=False)

    @torch.no_grad()
    def init_module(self, module: nn.Module) -> None:
        """Initialise the parameters of one module as CLIP does. Parameters that were loaded stay as they are."""
        config, factor = self.config, self.config.initializer_factor
        if isinstance(module, TextEmbeddings):
            _normal(module.token_embedding.weight, 0.02 * factor)
            _normal(module.position_embedding.weight, 0.02 * factor)
        elif isinstance(module, VisionEmbeddings):
            vision = VisionConfig.of(config.vision_config)
            _normal(module.class_embedding, vision.hidden_size**-0.5 * factor)
            _normal(module.patch_embedding.weight, vision.initializer_range * factor)
            _normal(module.position_embedding.weight, vision.initializer_range * factor)
            if module.temporal_embedding is not None:
                _fill(module.temporal_embedding, 0.0)
            if module.proxy_tokens is not None:
                _init_proxies(module.proxy_tokens, module.class_embedding, config.proxy_init)
        elif isinstance(module, TemporalTransformer):
            _normal(module.temporal_embedding, 0.01 * factor)
        elif isinstance(module, Encoder):
            for block in module.layers:
                assert isinstance(block, Block)
                _init_block(block, depth=len(module.layers), factor=factor)
        elif isinstance(module, nn.LayerNorm):
            _fill(module.weight, 1.0)
            _fill(module.bias, 0.0)
        elif isinstance(module, ClipVipCore):
            _normal(module.text_projection.weight, module.text_projection.in_features**-0.5 * factor)
            _normal(module.visual_projection.weight, module.visual_projection.in_features**-0.5 * factor)
            _fill(module.logit_scale, float(config.logit_scale_init_value))


def to_unit_norm(features: Tensor) -> Tensor:
    """Features at unit norm along their last axis, in float32 at least."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def _init_block(block: Block, depth: int, factor: float) -> None:
    """Initialise a block as CLIP does: values are smaller the wider the tower is, and some also the deeper it is."""
    attn, mlp = block.self_attn, block.mlp
    width = attn.q_proj.in_features
    residual_std = width**-0.5 * (2 * depth) ** -0.5 * factor
    for projection in (attn.q_proj, attn.k_proj, attn.v_proj):
        _normal(projection.weight, residual_std)
    _normal(attn.out_proj.weight, width**-0.5 * factor)
    _normal(mlp.fc1.weight, (2 * width) ** -0.5 * factor)
    _normal(mlp.fc2.weight, residual_std)
    for linear in (attn.q_proj, attn.k_proj, attn.v_proj, attn.out_proj, mlp.fc1, mlp.fc2):
        _fill(linear.bias, 0.0)


def _init_proxies(proxies: nn.Parameter, class_embedding: Tensor, kind: str) -> None:
    noise = torch.randn(proxies.shape, dtype=proxies.dtype).to(proxies.device)
    if kind == "class":
        noise = class_embedding + PROXY_NOISE * class_embedding.std() * noise
    if not _is_loaded(proxies):
        proxies.copy_(noise)


def _normal(parameter: Tensor, std: float) -> None:
    if not _is_loaded(parameter):
        nn.init.normal_(parameter, std=std)


def _fill(parameter: Tensor, value: float) -> None:
    if not _is_loaded(parameter):
        nn.init.constant_(parameter, value)


def _is_loaded(parameter: Tensor) -> bool:
    """Whether transformers has read it from a file: it marks such parameters before it has the others initialised."""
    return getattr(parameter, "_is_hf_initialized", False)
