"""`ClipVipModel`: both towers, their projections and the temperature, as a `transformers` PreTrainedModel.

Shapes: B videos, T frames, N texts, S tokens, E embedding size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from clipvip.errors import CheckpointError, InputError, UsageError
from clipvip.model import inference
from clipvip.model.aggregators import TemporalTransformer, mean_pool
from clipvip.model.config import FRAMEWISE, ClipVipConfig
from clipvip.model.hub import end_token, locate, read_config
from clipvip.model.layers import MLP, Attention, init_block_weights
from clipvip.model.quiet import without_bars
from clipvip.model.text import TextEmbeddings, TextTransformer
from clipvip.model.vision import VisionEmbeddings, VisionTransformer

MAX_LOGIT_SCALE = math.log(200.0)
PROXY_NOISE = 0.3
"""Noise of the added proxies' start, in units of the class embedding's own spread: enough to tell proxies apart."""
NEW_PARAMETERS = (
    "vision_model.embeddings.proxy_tokens",
    "vision_model.embeddings.temporal_embedding",
    "temporal_transformer.",
)
"""Prefixes of what a video model adds to CLIP: absent from image-text weights; training has a rate factor for them."""


@dataclass
class ClipVipOutput(ModelOutput):
    """video_embeds [B, E], text_embeds [N, E] (unit norm), logits_per_video [B, N], logits_per_text [N, B]."""

    video_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logits_per_video: Tensor | None = None
    logits_per_text: Tensor | None = None


class ClipVipModel(PreTrainedModel):
    """CLIP-ViP: an image-text model that sees video through proxy tokens (arXiv 2209.06430).

    `state_dict()` has transformers' CLIP keys plus `vision_model.embeddings.proxy_tokens` [M-1, D] and
    `vision_model.embeddings.temporal_embedding` [T, D] (absent where the aggregator has no use for them), and
    `temporal_transformer.*` with the `transformer` aggregator.
    """

    config_class = ClipVipConfig
    base_model_prefix = "clipvip"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _keys_to_ignore_on_load_unexpected = [r".*\.position_ids$"]  # noqa: RUF012  # buffers of older CLIP files

    def __init__(self, config: ClipVipConfig):
        super().__init__(config)
        self.text_model = TextTransformer(config.text)
        self.vision_model = VisionTransformer(config)
        self.visual_projection = nn.Linear(config.vision.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.text.hidden_size, config.projection_dim, bias=False)
        self.temporal_transformer = TemporalTransformer(config) if config.aggregator == "transformer" else None
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.optimized_for: torch.dtype | None = None
        self.post_init()

    def encode_video(self, pixel_values: Tensor, normalize: bool = True) -> Tensor:
        """Video (or image) features.

        pixel_values: float [B, T, 3, H, W], normalised as the processor does; [B, 3, H, W] = images = T of 1.
        Returns: [B, E], of unit norm (then float32 whatever the weights are) unless `normalize=False`.
        Raises: InputError for another shape or dtype. Values are the processor's to check: no host sync here, and a
        NaN pixel gives NaN features.
        """
        pixel_values = self._checked_pixels(pixel_values)
        if self.config.aggregator in FRAMEWISE:
            frames = self.visual_projection(self.vision_model(pixel_values.flatten(0, 1)[:, None]))
            frames = frames.unflatten(0, pixel_values.shape[:2])
            if self.temporal_transformer is not None:
                frames = self.temporal_transformer(frames)
            features = mean_pool(frames)
        else:
            features = self.visual_projection(self.vision_model(pixel_values))
        return _unit(features) if normalize else features

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None, normalize: bool = True) -> Tensor:
        """Text features.

        input_ids: int [N, S], each row with an end token; attention_mask: [N, S], 1 = real token, padding on the right.
        Attention is causal and pooling happens at the first end token, so padding cannot change the result: on the CPU
        the mask serves to cut the batch to its longest text, elsewhere (where looking at it would stall the device) it
        is not read, and a row without an end token gives NaN.
        Returns: [N, E], of unit norm (then float32 whatever the weights are) unless `normalize=False`.
        Raises: InputError for another shape or dtype, more tokens than there are positions, or (looked at on the CPU
        only) a token beyond the vocabulary, a row without an end token, or padding that is not on the right.
        """
        limit, vocabulary = self.config.text.max_position_embeddings, self.config.text.vocab_size
        if input_ids.ndim != 2 or input_ids.dtype not in (torch.int64, torch.int32):
            raise InputError(f"input_ids: expected integers [N, tokens], got {input_ids.dtype} {list(input_ids.shape)}")
        if not 0 < input_ids.shape[1] <= limit:
            raise InputError(f"input_ids: {input_ids.shape[1]} tokens a text; this model takes 1 to {limit}")
        if attention_mask is not None:
            if attention_mask.shape != input_ids.shape:
                raise InputError(
                    f"attention_mask: shape {list(attention_mask.shape)} differs from input_ids {list(input_ids.shape)}"
                )
            if attention_mask.device.type == "cpu" and len(attention_mask):
                real = attention_mask.ne(0)
                apart = (real[:, 1:] > real[:, :-1]).any(1)
                if apart.any():
                    raise InputError(
                        f"attention_mask: row {int(apart.int().argmax())} has padding before a real token; texts are "
                        "read from position 0, so pad on the right (padding_side='right' of the tokeniser)"
                    )
                input_ids = input_ids[:, : max(int(attention_mask.ne(0).sum(1).max()), 1)]
        if input_ids.device.type == "cpu" and input_ids.numel():
            low, high = (int(bound) for bound in input_ids.aminmax())
            if low < 0 or high >= vocabulary:
                wrong = low if low < 0 else high
                raise InputError(
                    f"input_ids: token {wrong}, but the vocabulary has 0 to {vocabulary - 1}; another tokeniser's?"
                )
        ended = (input_ids == self.config.text.eos_token_id).any(1, keepdim=True)  # [N, 1]
        if input_ids.device.type == "cpu" and not bool(ended.all()):
            raise InputError(
                f"input_ids: row {int(ended[:, 0].int().argmin())} has no end token ({self.config.text.eos_token_id}), "
                "where texts are pooled; another tokeniser's, or cut without it?"
            )
        features = self.text_projection(self.text_model(input_ids))
        if input_ids.device.type != "cpu":
            features = torch.where(ended, features, torch.nan)
        return _unit(features) if normalize else features

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> ClipVipOutput:
        """Features of whatever is given, and their similarities times the temperature when both are."""
        if pixel_values is None and input_ids is None:
            raise InputError("ClipVipModel: give pixel_values, input_ids or both")
        video = None if pixel_values is None else self.encode_video(pixel_values)
        text = None if input_ids is None else self.encode_text(input_ids, attention_mask)
        per_text = None if video is None or text is None else self.logit_scale.exp() * text @ video.T
        return ClipVipOutput(video, text, None if per_text is None else per_text.T, per_text)

    @torch.no_grad()
    def optimize_for_inference(self, dtype: str = "auto") -> ClipVipModel:
        """Make encoding faster, in place, and return the model; training, moving or saving it afterwards is an error.

        dtype: "float32" (embeddings within 1e-5 of before), "bfloat16" (within 2e-3, cosine at least 0.999) or "auto"
        (bfloat16 where the hardware computes in it). Fuses projections, folds constants, drops temporaries, and on a
        CPU packs the weights for oneDNN where that is faster: measured once a process, and only if the results agree.
        No global torch setting changes. Move the model to its device before.
        Raises: UsageError for another dtype, or if the model is optimised already.
        """
        choices = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        if dtype not in ("auto", *choices):
            raise UsageError(f"dtype={dtype!r}: choose auto, {' or '.join(choices)}")
        self._refuse_if_optimized("optimising")
        wanted = inference.fastest_dtype(self.device) if dtype == "auto" else choices[dtype]
        self.eval().requires_grad_(False)
        for tower in (self.vision_model, self.text_model):  # the rest sees a token a frame, or a clip
            inference.optimize_tower(tower, wanted, self.device)
        self.optimized_for = wanted
        return self

    def train(self, mode: bool = True) -> ClipVipModel:
        """As in torch. Raises: UsageError if the model is optimised for inference."""
        if mode:
            self._refuse_if_optimized("training")
        return super().train(mode)

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        """As in torch. Raises: UsageError if the model is optimised for inference."""
        self._refuse_if_optimized("saving")
        return super().state_dict(*args, **options)

    def save_pretrained(self, *args: Any, **options: Any) -> Any:
        """As in transformers, without bars. Raises: UsageError if the model is optimised for inference."""
        self._refuse_if_optimized("saving")
        with without_bars():
            return super().save_pretrained(*args, **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **options: Any) -> Any:
        """As in transformers, without bars; the hub id may be ID@REVISION (see `locate`)."""
        name, located = locate(pretrained_model_name_or_path)
        with without_bars():
            return super().from_pretrained(name, *args, **{**options, **located})

    def _apply(self, *args: Any, **options: Any) -> ClipVipModel:
        self._refuse_if_optimized("moving")
        return super()._apply(*args, **options)

    def _refuse_if_optimized(self, what: str) -> None:
        if self.optimized_for is not None:
            raise UsageError(f"{what} a model that is optimised for inference: its weights are fused; load it again")

    @classmethod
    def from_clip(cls, source: str | Path, *, logit_scale: float = 4.60, **video_options: Any) -> ClipVipModel:
        """A CLIP-ViP model that starts from image-text weights.

        source: a transformers CLIP folder or hub id, or a frame-wise clipvip folder (the same weights).
        video_options: `num_frames`, `num_proxies`, `aggregator`, `proxy_init` of ClipVipConfig.
        logit_scale: reset to this (log of 1/temperature), as the released code does.
        New parameters come from torch's global generator: seed it for a reproducible start.
        Raises: CheckpointError if any other weight is missing, left over or of another shape.
        """
        clip = read_config(source)
        if clip.model_type not in ("clip", "clipvip"):
            raise CheckpointError(f"{source}: a {clip.model_type!r} model; from_clip wants CLIP weights")
        options = {"logit_scale_init_value": logit_scale, **video_options}
        config = ClipVipConfig.from_clip(clip, end_token=end_token(source, clip), **options)
        model = load_strictly(cls, source, config=config, may_miss=NEW_PARAMETERS)
        with torch.no_grad():
            model.logit_scale.fill_(logit_scale)
            if model.temporal_transformer is not None and config.temporal_starts_from_text:
                _start_from_text(model.temporal_transformer, model.text_model)
        return model

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """transformers guards classes outside of it by passing over modules without parameters of their own, such as
        `Attention`; `_init_weights` below needs no guard: the functions it uses leave loaded weights alone.
        """
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """CLIP's start; the transformers functions used here leave loaded weights alone."""
        factor = self.config.initializer_factor
        text, vision = self.config.text, self.config.vision
        if isinstance(module, TextEmbeddings):
            init.normal_(module.token_embedding.weight, std=0.02 * factor)
            init.normal_(module.position_embedding.weight, std=0.02 * factor)
        elif isinstance(module, VisionEmbeddings):
            init.normal_(module.class_embedding, std=vision.hidden_size**-0.5 * factor)
            init.normal_(module.patch_embedding.weight, std=vision.initializer_range * factor)
            init.normal_(module.position_embedding.weight, std=vision.initializer_range * factor)
            self._init_video_parameters(module)
        elif isinstance(module, TemporalTransformer):
            init.normal_(module.temporal_embedding, std=0.01 * factor)
        elif isinstance(module, Attention | MLP):
            init_block_weights(module, factor, init.normal_)
            for linear in module.children():
                if isinstance(linear, nn.Linear):
                    init.zeros_(linear.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, ClipVipModel):
            init.normal_(module.text_projection.weight, std=text.hidden_size**-0.5 * factor)
            init.normal_(module.visual_projection.weight, std=vision.hidden_size**-0.5 * factor)
            init.constant_(module.logit_scale, float(self.config.logit_scale_init_value))

    def _init_video_parameters(self, module: VisionEmbeddings) -> None:
        if module.temporal_embedding is not None:
            init.zeros_(module.temporal_embedding)
        if module.proxy_tokens is not None:
            noise = torch.randn(module.proxy_tokens.shape, dtype=module.proxy_tokens.dtype)
            noise = noise.to(module.proxy_tokens.device)
            if self.config.proxy_init == "class":
                noise = module.class_embedding + PROXY_NOISE * module.class_embedding.std() * noise
            init.copy_(module.proxy_tokens, noise)

    def _checked_pixels(self, pixel_values: Tensor) -> Tensor:
        vision = self.config.vision
        if pixel_values.ndim == 4:
            pixel_values = pixel_values[:, None]
        expected = (vision.num_channels, vision.image_size, vision.image_size)
        if pixel_values.ndim != 5 or tuple(pixel_values.shape[2:]) != expected or pixel_values.shape[1] == 0:
            raise InputError(
                f"pixel_values: expected [B, T, {', '.join(map(str, expected))}] with T >= 1 (or [B, ...] images), "
                f"got {list(pixel_values.shape)}"
            )
        if not pixel_values.is_floating_point():
            raise InputError(f"pixel_values: expected floats as ClipVipProcessor makes them, got {pixel_values.dtype}")
        return pixel_values


def _unit(features: Tensor) -> Tensor:
    """Features at unit norm along their last axis, in float32 at least."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def load_strictly(
    model_class: type[ClipVipModel], source: str | Path, *, may_miss: tuple[str, ...] = (), **options: Any
) -> ClipVipModel:
    """`from_pretrained` in which every key must find its place, except that keys starting with `may_miss` may be new.

    Raises: CheckpointError naming the missing, left-over or mis-shaped keys.
    """
    try:
        # float32 whatever the file holds: training steps are too small for half precision weights
        model, info = model_class.from_pretrained(source, output_loading_info=True, dtype=torch.float32, **options)
    except (OSError, RuntimeError, ValueError, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(f"{source}: cannot load a CLIP-ViP model: {' '.join(str(error).split())}") from error
    problems = {
        "missing": sorted(key for key in info["missing_keys"] if not key.startswith(may_miss)),
        "left over": sorted(info["unexpected_keys"]),
        "of another shape": sorted(str(key) for key in info["mismatched_keys"]),
    }
    told = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in problems.items()
        if keys
    ]
    if told:
        raise CheckpointError(f"{source}: weights do not fit the model: {'; '.join(told)}")
    return model


def _start_from_text(temporal: TemporalTransformer, text: TextTransformer) -> None:
    """Copy the text tower's first layers and positions: both read sequences of E-wide features (CLIP4Clip's start)."""
    temporal.temporal_embedding.copy_(text.embeddings.position_embedding.weight[: len(temporal.temporal_embedding)])
    for ours, theirs in zip(temporal.encoder.layers, text.encoder.layers, strict=False):
        ours.load_state_dict(theirs.state_dict())
