"""The configuration of a CLIP-ViP model, a `transformers` citizen: CLIP's text and vision keys plus the video ones."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig

from clipvip.errors import ConfigError

AGGREGATORS = ("vip", "mean", "transformer", "full")
END_TOKEN_PLACEHOLDER = 2
"""The eos_token_id of OpenAI's own folders: transformers' CLIP then pools at the largest id, which is the end token."""
FRAMEWISE = ("mean", "transformer")
"""Aggregators whose vision tower sees one frame at a time: it has neither added proxies nor a temporal embedding."""
TOWER_KEYS_READ = {
    "text_config": (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
        "hidden_act", "layer_norm_eps", "vocab_size", "eos_token_id",
    ),
    "vision_config": (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size",
        "patch_size", "hidden_act", "layer_norm_eps", "initializer_range",
    ),
}  # fmt: skip
"""Keys of the towers that are read. CLIP's files have others, which transformers' CLIPModel does not read either."""


@strict
class ClipVipConfig(PreTrainedConfig):
    """Sizes and choices of a `ClipVipModel`.

    text_config, vision_config: keys as in transformers' CLIPConfig (a dict, a config object, or None for ViT-B/32's);
        those that are read: TOWER_KEYS_READ. There is no dropout: an attention_dropout is an error.
    projection_dim: E, the size of the shared embedding space.
    num_frames: T, frames of a training clip = rows of the temporal embedding; other T are interpolated.
    num_proxies: M, video proxy tokens, the class token included; None: 4, or 1 for frame-wise aggregators.
    aggregator: "vip" (proxy-guided attention), "full" (all tokens attend to all), "mean" (frame-wise CLIP, frame
        features averaged) or "transformer" (the same, but frame features see each other first: CLIP4Clip's seqTransf).
    proxy_init: start of the added proxies: "class" (class embedding + small noise, so that a fresh model stays close
        to CLIP) or "normal" (N(0, 1), as the released code does).
    num_temporal_layers: depth of the "transformer" aggregator (4 as in CLIP4Clip); no other has use for it.
    logit_scale_init_value: log of 1/temperature at the start.
    initializer_factor: times the standard deviations of a start from scratch.
    clip_duration_s: how long the clips were that it was trained on, on average: a search index cuts videos into such
        windows. None: not known. No weight or feature depends on it.
    Source: CLIP-ViP section 4.2; the released configuration files.
    """

    model_type = "clipvip"
    sub_configs_defaults = {"text_config": CLIPTextConfig, "vision_config": CLIPVisionConfig}  # noqa: RUF012 (base class protocol)

    text_config: dict | CLIPTextConfig | None = None
    vision_config: dict | CLIPVisionConfig | None = None
    projection_dim: int = 512
    num_frames: int = 12
    num_proxies: int | None = None
    aggregator: str = "vip"
    proxy_init: str = "class"
    num_temporal_layers: int = 4
    logit_scale_init_value: float | int = 4.60
    initializer_factor: float | int = 1.0
    clip_duration_s: float | int | None = None

    @classmethod
    def from_clip(cls, clip: PreTrainedConfig, *, end_token: int | None = None, **video_options: Any) -> ClipVipConfig:
        """The configuration of a video model with the towers of a CLIP (or clipvip) configuration.

        end_token: where the configuration has the placeholder 2 for it (see `hub.end_token`); None: the last id.
        """
        text = clip.text_config.to_dict()
        if text["eos_token_id"] == END_TOKEN_PLACEHOLDER:
            text["eos_token_id"] = text["vocab_size"] - 1 if end_token is None else end_token
        vision = clip.vision_config.to_dict()
        return cls(text_config=text, vision_config=vision, projection_dim=clip.projection_dim, **video_options)

    @property
    def text(self) -> CLIPTextConfig:
        """`text_config`, which construction has made an object."""
        return self.text_config

    @property
    def vision(self) -> CLIPVisionConfig:
        """`vision_config`, which construction has made an object."""
        return self.vision_config

    @property
    def temporal(self) -> CLIPTextConfig:
        """Sizes of the `transformer` aggregator: E wide, otherwise like the text tower it starts from."""
        return CLIPTextConfig(
            hidden_size=self.projection_dim,
            intermediate_size=4 * self.projection_dim,
            num_hidden_layers=self.num_temporal_layers,
            num_attention_heads=self.text.num_attention_heads,
            hidden_act=self.text.hidden_act,
            layer_norm_eps=self.text.layer_norm_eps,
        )

    @property
    def temporal_starts_from_text(self) -> bool:
        """Whether the text tower's layers and positions fit the temporal transformer, as all public CLIP models' do."""
        text, temporal = self.text, self.temporal
        return (
            (text.hidden_size, text.intermediate_size) == (temporal.hidden_size, temporal.intermediate_size)
            and text.num_hidden_layers >= self.num_temporal_layers
            and text.max_position_embeddings >= self.num_frames
        )

    @property
    def num_added_proxies(self) -> int:
        """M - 1: proxies beside the class token."""
        assert self.num_proxies is not None  # resolved at construction
        return self.num_proxies - 1

    def __post_init__(self, **kwargs):  # type: ignore[no-untyped-def]  # signature of the base class
        if self.num_proxies is None:
            self.num_proxies = 1 if self.aggregator in FRAMEWISE else 4
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Run by `@strict` after construction. Raises: ConfigError naming the field and what it may be."""
        if self.aggregator not in AGGREGATORS:
            raise ConfigError(f"aggregator={self.aggregator!r}: choose one of {', '.join(AGGREGATORS)}")
        for name in TOWER_KEYS_READ:
            if dropout := getattr(self, name).attention_dropout:
                raise ConfigError(f"{name}.attention_dropout={dropout}: this model has no dropout; set it to 0")
        if self.proxy_init not in ("class", "normal"):
            raise ConfigError(f"proxy_init={self.proxy_init!r}: choose 'class' or 'normal'")
        if self.num_frames < 1:
            raise ConfigError(f"num_frames={self.num_frames}: must be at least 1")
        if self.num_proxies is None or self.num_proxies < 1:
            raise ConfigError(f"num_proxies={self.num_proxies}: must be at least 1 (the class token is proxy 0)")
        if self.aggregator in FRAMEWISE and self.num_proxies != 1:
            raise ConfigError(
                f"num_proxies={self.num_proxies} with aggregator={self.aggregator!r}: "
                "a frame-wise aggregator has no added proxies; set num_proxies=1 or aggregator='vip'"
            )
        if self.aggregator == "transformer":
            if self.num_temporal_layers < 1:
                raise ConfigError(f"num_temporal_layers={self.num_temporal_layers}: must be at least 1")
            if self.projection_dim % self.text.num_attention_heads:
                raise ConfigError(
                    f"projection_dim={self.projection_dim} with aggregator='transformer': its heads are the text "
                    f"tower's, and {self.text.num_attention_heads} do not divide it"
                )


__all__ = ["AGGREGATORS", "FRAMEWISE", "ClipVipConfig"]
