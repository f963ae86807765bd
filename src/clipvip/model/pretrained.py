"""The transformers side of the model: `ClipVipModel` and its configuration, known to the Auto classes.

`AutoConfig`, `AutoModel` and `AutoProcessor` know model folders of clipvip as soon as this module is imported, which
`clipvip.ClipVipModel` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import ModelOutput

from clipvip.errors import CheckpointError
from clipvip.model.configuration_clipvip import ClipVipConfig
from clipvip.model.hub import end_token, locate, read_config
from clipvip.model.kernels import optimize_for_inference
from clipvip.model.loading import check_keys
from clipvip.model.modeling_clipvip import NEW_PARAMETERS, ClipVipCore, TemporalTransformer, TextTransformer
from clipvip.model.processing_clipvip import ClipVipProcessor
from clipvip.model.quiet import without_bars


@strict
class ClipVipPreTrainedConfig(PreTrainedConfig, ClipVipConfig):
    """`ClipVipConfig` as transformers expects it, with the configuration classes of CLIP for the towers."""

    model_type = "clipvip"
    sub_configs_defaults = {"text_config": CLIPTextConfig, "vision_config": CLIPVisionConfig}  # noqa: RUF012 (base class protocol)
    validate_architecture = ClipVipConfig.validate_architecture

    text_config: dict | CLIPTextConfig | None = None
    vision_config: dict | CLIPVisionConfig | None = None

    @classmethod
    def of_core(cls, config: ClipVipConfig) -> ClipVipPreTrainedConfig:
        """The same configuration; itself if it is transformers' already."""
        return config if isinstance(config, cls) else cls(**config.to_dict())

    def __post_init__(self, **kwargs):  # type: ignore[no-untyped-def]  # signature of the base class
        self.set_default_proxies()
        super().__post_init__(**kwargs)


@dataclass
class ClipVipOutput(ModelOutput):
    """video_embeds [B, E], text_embeds [N, E] (unit norm), logits_per_video [B, N], logits_per_text [N, B]."""

    video_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logits_per_video: Tensor | None = None
    logits_per_text: Tensor | None = None


class ClipVipModel(ClipVipCore, PreTrainedModel):
    """CLIP-ViP (`ClipVipCore`) as a transformers model: from_pretrained, save_pretrained, gradient checkpointing, peft.

    config: a `ClipVipConfig`.
    """

    config_class = ClipVipPreTrainedConfig
    base_model_prefix = "clipvip"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _keys_to_ignore_on_load_unexpected = [r".*\.position_ids$"]  # noqa: RUF012  # buffers of older CLIP files

    def __init__(self, config: ClipVipConfig):
        config = ClipVipPreTrainedConfig.of_core(config)
        PreTrainedModel.__init__(self, config)  # sets self.config
        self.build(config)
        self.post_init()  # type: ignore[operator]  # of PreTrainedModel

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> ClipVipOutput:
        """Features of what is given, and if both are, their similarities divided by the temperature."""
        return ClipVipOutput(**super().forward(pixel_values, input_ids, attention_mask)._asdict())

    def optimize_for_inference(self, dtype: str = "auto") -> ClipVipModel:
        """Make encoding faster, in place, and return the model (see `clipvip.model.kernels.optimize_for_inference`)."""
        optimize_for_inference(self, dtype)
        return self

    def save_pretrained(self, *args: Any, **options: Any) -> Any:
        """As in transformers, without progress bars."""
        with without_bars():
            return super().save_pretrained(*args, **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **options: Any) -> Any:
        """As in transformers, without progress bars; the hub id may be ID@REVISION (see `locate`)."""
        name, located = locate(pretrained_model_name_or_path)
        if isinstance(config := options.get("config"), ClipVipConfig):
            options["config"] = ClipVipPreTrainedConfig.of_core(config)
        with without_bars():
            return super().from_pretrained(name, *args, **{**options, **located})

    @classmethod
    def from_clip(cls, source: str | Path, *, logit_scale: float | None = 4.60, **video_options: Any) -> ClipVipModel:
        """A CLIP-ViP model that starts from image-text weights.

        Args:
            source: a transformers CLIP folder or hub id, or a frame-wise clipvip folder (the same weights).
            logit_scale: log(1 / temperature) to start training with (4.60 in the released code); None keeps the
                stored one.
            video_options: `num_frames`, `num_proxies`, `aggregator`, `proxy_init` of ClipVipConfig.
        New parameters come from torch's global generator: seed it for a reproducible start.
        Raises: CheckpointError if any other weight is missing, left over or of another shape.
        """
        clip = read_config(source)
        if clip.model_type not in ("clip", "clipvip"):
            raise CheckpointError(f"{source}: a {clip.model_type!r} model; from_clip needs CLIP weights")
        if logit_scale is not None:
            video_options = {"logit_scale_init_value": logit_scale, **video_options}
        config = ClipVipPreTrainedConfig.from_clip(clip, end_token=end_token(source, clip), **video_options)
        model = load_strictly(cls, source, config=config, may_miss=NEW_PARAMETERS)
        with torch.no_grad():
            if logit_scale is not None:
                model.logit_scale.fill_(logit_scale)
            if model.temporal_transformer is not None and config.temporal_starts_from_text:
                _start_from_text(model.temporal_transformer, model.text_model)
        return model

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """transformers guards classes of other packages by passing over modules without parameters of their own, such
        as `Encoder`; `init_module` needs no guard, as it leaves loaded weights alone.
        """
        super()._initialize_weights(module, is_custom_code=False)

    def _init_weights(self, module: nn.Module) -> None:
        self.init_module(module)


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
    missing = [key for key in info["missing_keys"] if not key.startswith(may_miss)]
    check_keys(source, missing, info["unexpected_keys"], [str(key) for key in info["mismatched_keys"]])
    return model


def _start_from_text(temporal: TemporalTransformer, text: TextTransformer) -> None:
    """Copy the text tower's first layers and positions: both read sequences of E-wide features (CLIP4Clip's start)."""
    temporal.temporal_embedding.copy_(text.embeddings.position_embedding.weight[: len(temporal.temporal_embedding)])
    for ours, theirs in zip(temporal.encoder.layers, text.encoder.layers, strict=False):
        ours.load_state_dict(theirs.state_dict())


AutoConfig.register(ClipVipConfig.model_type, ClipVipPreTrainedConfig, exist_ok=True)
AutoModel.register(ClipVipPreTrainedConfig, ClipVipModel, exist_ok=True)
AutoProcessor.register(ClipVipPreTrainedConfig, ClipVipProcessor, exist_ok=True)
