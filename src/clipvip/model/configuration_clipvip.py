"""The configuration of a CLIP-ViP model: the sizes of both towers, and what is added to them for video.

It needs neither torch nor transformers. `config.json` has the same keys as these classes.
"""

# no "from __future__ import annotations" here: @strict checks values against the annotations
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeVar

from huggingface_hub.dataclasses import strict

from clipvip.errors import CheckpointError, ConfigError, InputError

AGGREGATORS = ("vip", "mean", "transformer", "full")
FRAMEWISE = ("mean", "transformer")
"""Aggregators whose vision tower sees one frame at a time: it has neither added proxies nor a temporal embedding."""
PROXY_INITS = ("class", "normal")
ACTIVATIONS = (
    "quick_gelu", "gelu", "gelu_python", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", "relu", "relu2", "relu6",
    "leaky_relu", "silu", "swish", "mish", "tanh", "sigmoid", "linear",
)  # fmt: skip
"""Names as in transformers."""
END_TOKEN_PLACEHOLDER = 2
"""The eos_token_id of OpenAI's own folders: transformers' CLIP then pools at the largest id, which is the end token."""
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
"""Keys of the towers that the model reads. CLIP's files have others, which transformers' CLIPModel does not read."""

SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
    "vocab_size", "num_channels", "image_size", "patch_size",
)  # fmt: skip
"""Keys of the towers that count something."""

Tower = TypeVar("Tower", bound="TowerConfig")


@strict
@dataclass
class TowerConfig:
    """What both towers have. other: keys of a file that this model does not read; they are written back."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float | int = 1e-5
    attention_dropout: float | int = 0.0
    other: dict = field(default_factory=dict)

    @classmethod
    def of(cls: type[Tower], source: Any) -> Tower:
        """From a dict, an object with `to_dict` (such as transformers' CLIPTextConfig), or None for the defaults."""
        if isinstance(source, cls):
            return source
        settings = {} if source is None else dict(source if isinstance(source, dict) else source.to_dict())
        known = {each.name for each in fields(cls)} - {"other"}
        other = {name: settings.pop(name) for name in set(settings) - known}
        return cls(**settings, other=other)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in `config.json`."""
        settings = asdict(self)
        return settings.pop("other") | settings


@strict
@dataclass
class TextConfig(TowerConfig):
    """The text tower: keys and defaults (ViT-B/32's) of transformers' CLIPTextConfig."""

    vocab_size: int = 49408
    max_position_embeddings: int = 77
    bos_token_id: int | None = 49406
    eos_token_id: int = 49407
    pad_token_id: int | None = 1


@strict
@dataclass
class VisionConfig(TowerConfig):
    """The vision tower: keys and defaults (ViT-B/32's) of transformers' CLIPVisionConfig."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    initializer_range: float | int = 0.02


@strict
@dataclass(kw_only=True)
class ClipVipConfig:
    """Sizes and choices of a CLIP-ViP model.

    Args:
        text_config, vision_config: a dict with the keys of `TextConfig` and `VisionConfig`, such an object, or None for
            ViT-B/32's. Those that the model reads: TOWER_KEYS_READ. There is no dropout.
        projection_dim: E, the size of the shared embedding space.
        num_frames: T, frames per training clip = rows of the temporal embedding; other T are interpolated.
        num_proxies: M, video proxy tokens, the class token included; None: 4, or 1 for frame-wise aggregators.
        aggregator: "vip" (proxy-guided attention), "full" (all tokens attend to all), "mean" (CLIP on each frame, frame
            features averaged) or "transformer" (the same, but frame features attend to each other first: CLIP4Clip's
            seqTransf).
        proxy_init: initial values of added proxies: "class" (class embedding plus small noise, so that a fresh model
            stays close to CLIP) or "normal" (N(0, 1), as in the released code).
        num_temporal_layers: depth of the "transformer" aggregator (4 in CLIP4Clip); the others do not use it.
        logit_scale_init_value: initial log(1 / temperature).
        initializer_factor: multiplies the standard deviations of initial weights.
        clip_duration_s: mean duration of the clips it was trained on; a search index cuts videos into such windows.
            None: not known. No weight or feature depends on it.
    Raises: ConfigError for a value that is not possible; huggingface_hub's StrictDataclassError for a wrong type.
    Source: CLIP-ViP (arXiv 2209.06430) section 4.2; the released configuration files.
    """

    model_type = "clipvip"

    text_config: Any = None
    vision_config: Any = None
    projection_dim: int = 512
    num_frames: int = 12
    num_proxies: int | None = None
    aggregator: str = "vip"
    proxy_init: str = "class"
    num_temporal_layers: int = 4
    logit_scale_init_value: float | int = 4.60
    initializer_factor: float | int = 1.0
    clip_duration_s: float | int | None = None

    def __post_init__(self) -> None:
        self.text_config = TextConfig.of(self.text_config)
        self.vision_config = VisionConfig.of(self.vision_config)
        self.set_default_proxies()

    def set_default_proxies(self) -> None:
        """Replace num_proxies=None by the number that the aggregator has by default."""
        if self.num_proxies is None:
            self.num_proxies = 1 if self.aggregator in FRAMEWISE else 4

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        """From the content of a `config.json`; keys that are transformers' own are left out."""
        return cls(**{each.name: settings[each.name] for each in fields(cls) if each.name in settings})

    def to_dict(self) -> dict[str, Any]:
        """All fields, the towers' as dicts."""
        settings = {each.name: getattr(self, each.name) for each in fields(ClipVipConfig)}
        return settings | {name: settings[name].to_dict() for name in TOWER_KEYS_READ}

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "ClipVipConfig":
        """Of a clipvip folder or hub id. Raises: CheckpointError if there is none, or a model of another kind."""
        from clipvip.model.hub import own_folder, read_config  # they import this class
        from clipvip.model.loading import read_core_config

        folder = own_folder(source)
        if folder is not None:
            return read_core_config(folder)
        config = read_config(source)
        if not isinstance(config, ClipVipConfig):
            raise CheckpointError(f"{source}: a {config.model_type!r} model, not a clipvip model")
        return config

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` into a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        settings = self.to_dict() | {"model_type": self.model_type}
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        (Path(folder) / "config.json").write_text(text, encoding="utf-8")

    @classmethod
    def from_clip(cls, clip: Any, *, end_token: int | None = None, **video_options: Any) -> Self:
        """The configuration of a video model with the towers of a CLIP (or clipvip) configuration.

        end_token: replaces the placeholder 2, if the configuration has it (see `hub.end_token`); None: the last id.
        """
        text = clip.text_config.to_dict()
        if text["eos_token_id"] == END_TOKEN_PLACEHOLDER:
            text["eos_token_id"] = text["vocab_size"] - 1 if end_token is None else end_token
        vision = clip.vision_config.to_dict()
        return cls(text_config=text, vision_config=vision, projection_dim=clip.projection_dim, **video_options)

    @property
    def text(self) -> TextConfig:
        """`text_config`, which construction has made an object."""
        return self.text_config

    @property
    def vision(self) -> VisionConfig:
        """`vision_config`, which construction has made an object."""
        return self.vision_config

    @property
    def temporal(self) -> TextConfig:
        """Sizes of the `transformer` aggregator: E wide, otherwise like the text tower that it starts from."""
        return TextConfig(
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
        """M - 1: the proxies besides the class token."""
        assert self.num_proxies is not None  # resolved at construction
        return self.num_proxies - 1

    def check_some_input(self, *inputs: Any) -> None:
        """Raises: InputError if all of them are None."""
        if all(given is None for given in inputs):
            raise InputError("the model got no input: give pixel_values, input_ids or both")

    def check_pixel_values(self, pixel_values: Any) -> None:
        """Shape and dtype of a tensor of frames. Raises: InputError."""
        expected = (self.vision.num_channels, self.vision.image_size, self.vision.image_size)
        shape = tuple(pixel_values.shape)
        if len(shape) not in (4, 5) or shape[-3:] != expected or shape[1] == 0:
            raise InputError(
                f"pixel_values: expected [B, T, {', '.join(map(str, expected))}] with T >= 1 (or [B, ...] images), "
                f"got {list(shape)}"
            )
        if not pixel_values.is_floating_point():
            raise InputError(f"pixel_values: expected floats as ClipVipProcessor makes them, got {pixel_values.dtype}")

    def check_input_ids(self, input_ids: Any, attention_mask: Any | None) -> None:
        """Shape and dtype of tensors of tokens. Raises: InputError."""
        limit = self.text.max_position_embeddings
        if input_ids.ndim != 2 or str(input_ids.dtype) not in ("torch.int64", "torch.int32"):
            raise InputError(f"input_ids: expected integers [N, tokens], got {input_ids.dtype} {list(input_ids.shape)}")
        if not 0 < input_ids.shape[1] <= limit:
            raise InputError(f"input_ids: {input_ids.shape[1]} tokens per text; this model takes 1 to {limit}")
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise InputError(
                f"attention_mask: shape {list(attention_mask.shape)} differs from input_ids {list(input_ids.shape)}"
            )

    def check_tokens(self, input_ids: Any, attention_mask: Any | None) -> int:
        """Look at the values of tokens on the CPU; return the number of tokens of the longest text, at least 1.

        Raises: InputError for a token outside the vocabulary, a text without an end token, or padding on the left.
        """
        length = input_ids.shape[1]
        if not len(input_ids):
            return length
        if attention_mask is not None and attention_mask.device.type == "cpu":
            real = attention_mask.ne(0)
            padded_before = (real[:, 1:] & ~real[:, :-1]).any(1)
            if padded_before.any():
                raise InputError(
                    f"attention_mask: row {int(padded_before.int().argmax())} has padding before a real token; texts "
                    "are read from position 0, so pad on the right (padding_side='right' of the tokeniser)"
                )
            length = max(int(real.sum(1).max()), 1)
            input_ids = input_ids[:, :length]
        vocab_size, end = self.text.vocab_size, self.text.eos_token_id
        low, high = (int(bound) for bound in input_ids.aminmax())
        if low < 0 or high >= vocab_size:
            wrong = low if low < 0 else high
            raise InputError(
                f"input_ids: token {wrong}, but the vocabulary has 0 to {vocab_size - 1}; another tokeniser's?"
            )
        ended = (input_ids == end).any(1)
        if not ended.all():
            raise InputError(
                f"input_ids: row {int(ended.int().argmin())} has no end token ({end}), where texts are pooled; another "
                "tokeniser's, or cut without it?"
            )
        return length

    def validate_architecture(self) -> None:
        """Called by `@strict` after construction. Raises: ConfigError naming the field and its possible values."""
        if self.aggregator not in AGGREGATORS:
            raise ConfigError(f"aggregator={self.aggregator!r}: choose one of {', '.join(AGGREGATORS)}")
        for name in TOWER_KEYS_READ:
            tower = getattr(self, name)
            if tower.attention_dropout:
                raise ConfigError(
                    f"{name}.attention_dropout={tower.attention_dropout}: this model has no dropout; set it to 0"
                )
            for key in SIZES:
                if getattr(tower, key, 1) < 1:
                    raise ConfigError(f"{name}.{key}={getattr(tower, key)}: must be at least 1")
            if tower.hidden_size % tower.num_attention_heads:
                raise ConfigError(
                    f"{name}.hidden_size={tower.hidden_size} is not a multiple of "
                    f"num_attention_heads={tower.num_attention_heads}"
                )
            if tower.hidden_act not in ACTIVATIONS:
                raise ConfigError(f"{name}.hidden_act={tower.hidden_act!r}: choose one of {', '.join(ACTIVATIONS)}")
        if self.proxy_init not in PROXY_INITS:
            raise ConfigError(f"proxy_init={self.proxy_init!r}: choose {' or '.join(map(repr, PROXY_INITS))}")
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
            heads = self.text.num_attention_heads
            if self.num_temporal_layers < 1:
                raise ConfigError(f"num_temporal_layers={self.num_temporal_layers}: must be at least 1")
            if self.projection_dim % heads:
                raise ConfigError(
                    f"projection_dim={self.projection_dim} with aggregator='transformer': it has as many attention "
                    f"heads as the text tower, and {heads} do not divide it"
                )
