"""What a recipe may say: typed, strict, one docstring a field.

A recipe is YAML. Beside the sections below it may have a `base` (a recipe it overrides, or a list of them, later ones
over earlier ones) and a section `released` with what else it overrides under the released profile. In order, each over
the one before: PROFILES, bases, the recipe, its `released` section if that is the profile, `key=value` arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from clipvip.losses import VARIANTS
from clipvip.model.configuration_clipvip import AGGREGATORS, PROXY_INITS
from clipvip.model.text_cleaning import TEXT_CLEANINGS
from clipvip.records import SubtitleField

if TYPE_CHECKING:
    Variant: TypeAlias = str
    Aggregator: TypeAlias = str
    TextCleaning: TypeAlias = str
    ProxyInit: TypeAlias = str
else:  # the tables say what there is
    Variant, Aggregator = Literal[tuple(VARIANTS)], Literal[AGGREGATORS]
    TextCleaning, ProxyInit = Literal[TEXT_CLEANINGS], Literal[PROXY_INITS]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


class ModelSection(_Strict):
    """Where the model comes from, and its video options."""

    init: str | None = None
    """Folder or hub id to start from: CLIP weights, or a clipvip model. None: from scratch, with `architecture`."""
    architecture: dict[str, Any] | None = None
    """Keys of ClipVipConfig for a model from scratch (text_config, vision_config, projection_dim, ...)."""
    tokenizer: str | None = None
    """Folder or hub id of the tokeniser; None: that of `init`."""
    aggregator: Aggregator = "vip"
    """How frames become one feature (see ClipVipConfig)."""
    num_temporal_layers: int | None = Field(None, ge=1)
    """Depth of the `transformer` aggregator, and of no other; None: 4, or that of `init`."""
    num_frames: int = Field(12, ge=1)
    """Frames a clip; an `init` with a temporal embedding of another length keeps it, interpolated."""
    num_proxies: int | None = Field(None, ge=1)
    """Proxy tokens, the class token included; None: that of a video model in `init`, else 4, or 1 if frame-wise."""
    proxy_init: ProxyInit = "class"
    """Start of the added proxies (see ClipVipConfig); an `init` that has proxies keeps its own."""
    logit_scale: float | None = None
    """Start of the log inverse temperature; None: the stored one if `init` has the same aggregator, else 4.60."""
    resize: Literal["squash", "crop"] = "squash"
    """How frames become square."""
    resize_in: Literal["tensor", "decoder"] = "tensor"
    """Where they are resized."""
    max_text_tokens: int = Field(70, ge=3)
    """Texts are cut here, their end token kept."""
    text_cleaning: TextCleaning | None = None
    """Whether texts are repaired as OpenAI's tokeniser does it (see `ClipVipProcessor`); None: as `init` does, and not
    at all where it is plain CLIP, as released."""


class MixSection(_Strict):
    """One more source of training clips, such as an image-text set: an image is a video of one frame."""

    data: str
    """Its manifest, or a folder or URL of shards."""
    share: float = Field(gt=0, lt=1)
    """Share of the steps whose batch comes from here; the main source has what the others leave."""
    videos: Path | None = None
    """Folder the media paths are relative to; None: the manifest's own."""
    split: str | None = "train"
    """Split to train on; None: every line."""
    subtitle: SubtitleField = "captions"
    """Where S is read from, as in `data.subtitle`."""
    caption: Literal["caption", "captions"] = "captions"
    """The field that C is read from, if the loss variant has it: an image-text set's own captions."""
    join_captions: bool = False
    """Join a clip's captions by spaces instead of drawing one."""


class DataSection(_Strict):
    """Which clips, and which of their texts play which part."""

    train: str
    """Manifest of the training clips, a folder or URL of shards (`clipvip data shard`), or tars ("cc12m/*.tar")."""
    mix: tuple[MixSection, ...] = ()
    """More sources; each batch is of one source."""
    val: Path | None = None
    """Manifest of the validation clips; None: no validation, the last weights are kept."""
    videos: Path | None = None
    """Folder the media paths are relative to; None: each manifest's own."""
    train_split: str | None = "train"
    """Split to train on; None: every line."""
    val_split: str | None = "val"
    """Split to validate on; None: every line."""
    subtitle: SubtitleField = "captions"
    """The field that S is read from ("caption": auxiliary captions alone); of several captions one is drawn per pass.
    As released also both: "caption_subtitle_concat" ("CAPTION. with subtitle: SUBTITLE"), "caption_subtitle_random"."""
    join_captions: bool = False
    """Paragraph retrieval: a clip's captions are joined by spaces, in training as S and in validation as the query."""
    last_batch: Literal["drop", "keep"] = "drop"
    """The clips of a pass that do not fill a batch: "drop" leaves them to another pass; "keep", as released, makes a
    smaller batch of them, and counts `train.epochs` in clips: MSR-VTT's 100 passes are 7,032 steps instead of 7,000."""
    jitter: bool = True
    """Jittered frame sampling in training, as released; False: uniform, as in evaluation."""
    num_workers: int = Field(2, ge=0)
    """Loader processes; 0: decode in the training process."""
    cache: bool = False
    """Keep every decoded file in memory (of each loader process): for sets of small files."""
    on_decode_error: Literal["raise", "skip"] = "raise"
    """What to do with a clip that cannot be decoded: stop, or leave it out, logged and listed in bad_clips.jsonl."""
    max_bad_share: float = Field(0.05, ge=0, le=1)
    """The run stops when more than this share of the training clips had to be left out."""

    @model_validator(mode="after")
    def _some_steps_left(self) -> DataSection:
        if sum(source.share for source in self.mix) >= 1:
            raise ValueError("the shares of data.mix must leave some steps to data.train: their sum must be below 1")
        return self


class LossSection(_Strict):
    """The objective."""

    variant: Variant = "vs"
    """Terms of omnisource learning."""
    reduction: Literal["mean", "sum"] = "mean"
    """"mean": a pair loss averages its two directions; "sum": the released code's plain sum."""


class OptimSection(_Strict):
    """AdamW with a cosine schedule."""

    rule: Literal["torch", "released"] = "torch"
    """Whose AdamW: torch's; or the released code's, which adds eps before the bias correction and decays after the
    update (see `ReleasedAdamW`): its first steps are smaller where gradients are about as small as eps."""
    lr: float = Field(gt=0)
    """Peak learning rate of CLIP's own parameters."""
    new_lr_factor: float = Field(1.0, gt=0)
    """Times `lr` for what a video model adds to CLIP: proxies, temporal embedding, temporal transformer."""
    logit_scale_lr_factor: float = Field(1.0, gt=0)
    """Times `lr` for the temperature: 10 in the released DiDeMo run of ViT-B/16."""
    weight_decay: float = Field(0.2, ge=0)
    """Decoupled weight decay."""
    decay: Literal["matrices", "released"] = "matrices"
    """What is decayed: weight matrices only; or, as released, everything but biases and logit_scale."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW."""
    beta2: float = Field(0.98, ge=0, lt=1)
    """AdamW."""
    eps: float = Field(1e-6, gt=0)
    """AdamW."""
    warmup_ratio: float = Field(0.01, ge=0, lt=1)
    """Share of the steps with linear warm-up."""
    freeze_text: Literal["none", "tower", "tower_and_projection"] = "none"
    """Parts of the text side that are not trained; the released code can, none of its configurations does."""
    clip_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this global norm."""


class TrainSection(_Strict):
    """How long, how large, how often."""

    batch_size: int = Field(ge=2)
    """Global batch: clips that are each other's negatives."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the training clips; give this or `steps`."""
    steps: int | None = Field(None, gt=0)
    """Optimiser steps; give this or `epochs`."""
    micro_batch: int | None = Field(None, ge=1)
    """Gradient caching: each process computes with so many clips at a time, in the memory they take, and gets the
    gradients of the whole batch, for a third more work. None: no caching."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of activations; weights are float32."""
    float32_matmul: Literal["highest", "high", "medium"] = "highest"
    """torch.set_float32_matmul_precision for the time of the run: what float32 products may be computed in. Below
    "highest", TF32 on GPUs; "medium" on CPUs: oneDNN, which rounds to bfloat16 where the CPU has AMX."""
    kernels: Literal["fast", "plain"] = "fast"
    """"fast": layers that take less time, above all in bfloat16 on CPUs, with another order of sums; "plain": those of
    `modeling_clipvip.py`."""
    compile: bool = False
    """torch.compile each transformer block; needs a C++ compiler on the CPU."""
    activation_checkpointing: bool = False
    """Forget the activations within each block and compute them again for the backward pass: less memory, more time."""
    seed: int = Field(0, ge=0)
    """Of initialisation, order and draws."""
    log_every: int = Field(10, gt=0)
    """Steps between log lines."""
    eval_every: int | None = Field(None, gt=0)
    """Steps between validations; None: only at the end."""
    save_every: int = Field(500, gt=0)
    """Steps between checkpoints."""
    snapshot_every: int | None = Field(None, gt=0)
    """Steps between models that are kept, in snapshots/step-N, to fine-tune from or compare; None: none."""
    select: Literal["best", "last"] = "best"
    """Which weights become `model/`: those of the best validation R@1 (t2v, raw score), or the last."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where curves go besides log.jsonl: names of trackers that accelerate knows (wandb, mlflow, ...)."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainSection:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of train.epochs and train.steps")
        return self


class Recipe(_Strict):
    """One run."""

    profile: Literal["released", "clipvip"] = "clipvip"
    """Defaults for choices in which the released code differs from ours (see PROFILES)."""
    about: str = ""
    """What the run is, in one line for `clipvip train --list`, as are the next four."""
    hardware: str = ""
    """What the published run used; the global batch is train.batch_size."""
    paper: str = ""
    """The published figure of this run."""
    ours: str = "not yet run"
    """Our figure of this run."""
    inputs: dict[str, str] = {}
    """Field -> what to give for it, as far as the recipe leaves it open; `--list` makes the command from it."""
    model: ModelSection
    data: DataSection
    loss: LossSection = LossSection()
    optim: OptimSection
    train: TrainSection


PROFILES: dict[str, dict[str, Any]] = {
    "clipvip": {},
    "released": {
        "model": {"proxy_init": "normal"},
        "data": {"last_batch": "keep"},
        "loss": {"reduction": "sum"},
        "optim": {"rule": "released", "decay": "released", "new_lr_factor": 1.0},
        "train": {"precision": "float32"},
    },
}
"""What a profile sets before the recipe speaks. "clipvip" is the defaults above."""

STILL_DIFFERS = (
    "precision: float32 (bfloat16 with train.precision=bfloat16); the released runs are in fp16, apex level O2, with a "
    "scaled loss",
    "the last learning rate: 0; the released schedule ends at 1e-8",
    "the last batch of a pass: its clips as they are; the released sampler repeats clips until all GPUs have as many",
    "clips that cannot be decoded: an error, or left out and listed; the released code trains on some other clip",
    "clips without an auxiliary caption: without that term of the loss; the released code trains on the text 'None'",
    "which weights are kept: the best on data.val by raw R@1; the released code takes the best on the test set, by DSL",
    "draws: other random numbers for order, frames and captions, from the same distributions",
)
"""What a recipe under the profile "released" does not reproduce, for `clipvip train --list NAME`."""
