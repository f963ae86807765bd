"""The configuration of a CLIP-ViP model, a `transformers` citizen: CLIP's text and vision keys plus the video ones."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers import CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig

from clipvip.errors import ConfigError

AGGREGATORS = ("vip", "mean")
FRAMEWISE = ("mean",)
"""Aggregators that see one frame at a time: they have neither proxies of their own nor a temporal embedding."""


@strict
class ClipVipConfig(PreTrainedConfig):
    """Sizes and choices of a `ClipVipModel`.

    text_config, vision_config: keys as in transformers' CLIPConfig (a dict, a config object, or None for ViT-B/32's).
    projection_dim: E, the size of the shared embedding space.
    num_frames: T, frames of a training clip = rows of the temporal embedding; other T are interpolated.
    num_proxies: M, video proxy tokens, the class token included; None: 4, or 1 for frame-wise aggregators.
    aggregator: "vip" (proxy-guided attention) or "mean" (frame-wise CLIP, frame features averaged).
    proxy_init: start of the added proxies: "class" (class embedding + small noise, so that a fresh model stays close
        to CLIP) or "normal" (N(0, 1), as the released code does).
    logit_scale_init_value: log of 1/temperature at the start.
    Source: CLIP-ViP section 3.3; the released configuration files.
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
    logit_scale_init_value: float | int = 4.60
    initializer_factor: float | int = 1.0

    @property
    def text(self) -> CLIPTextConfig:
        """`text_config`, which construction has made an object."""
        return self.text_config

    @property
    def vision(self) -> CLIPVisionConfig:
        """`vision_config`, which construction has made an object."""
        return self.vision_config

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


__all__ = ["AGGREGATORS", "FRAMEWISE", "ClipVipConfig"]
