"""The clips a run trains on, how many steps they make, and those of them that had to be left out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from clipvip.data import ClipDataset, Sources, open_clips, steps_per_pass
from clipvip.errors import TrainingError, VideoDecodeError
from clipvip.losses import inputs_of
from clipvip.training.config import DataSection, MixSection, Recipe
from clipvip.video import probe

FEW_CLIPS = 32
"""Enough to see how long clips are. The first ones: of a set of shards they are in one."""


def make_datasets(recipe: Recipe, decoder_size: tuple[int, int] | int | None) -> list[ClipDataset]:
    """The main source and those of `data.mix`. decoder_size: the processor's. Raises: ManifestError."""
    data, inputs = recipe.data, inputs_of(recipe.loss.variant)
    main = MixSection(
        data=data.train, share=0.5, videos=data.videos, split=data.train_split, subtitle=data.subtitle,
        caption="caption", join_captions=data.join_captions,
    )  # fmt: skip
    return [
        ClipDataset(
            open_clips(source.data, videos=source.videos, split=source.split),
            num_frames=recipe.model.num_frames,
            sources=Sources(
                source.subtitle,
                source.caption if "caption" in inputs else None,
                "frame" in inputs,
                source.join_captions,
            ),
            seed=recipe.train.seed,
            jitter=data.jitter,
            decoder_size=decoder_size,
            cache=data.cache,
        )
        for source in (main, *data.mix)
    ]


def number_of_steps(recipe: Recipe, num_main_clips: int) -> int:
    """Optimiser steps of the run; `epochs` counts passes over the main source."""
    train = recipe.train
    if train.epochs is None:
        assert train.steps is not None  # the recipe saw to it
        return train.steps
    own_share = 1 - sum(source.share for source in recipe.data.mix)
    if recipe.data.last_batch == "keep":  # as released: every clip counts, and the last step need not end a pass
        return max(1, math.ceil(train.epochs * num_main_clips / train.batch_size / own_share - 1e-9))
    return max(1, round(train.epochs * steps_per_pass(num_main_clips, train.batch_size) / own_share))


def usual_duration_s(dataset: ClipDataset) -> float | None:
    """How long its videos are: the median of the first ones. None if there are none, or none that tells."""
    durations_s = []
    for index in range(min(FEW_CLIPS, len(dataset))):
        clip, media = dataset.clips.load(index)
        if clip.video is None or isinstance(media, list):  # pictures, one by one, have no times
            continue
        start_s, end_s = clip.time_range or (0.0, math.inf)
        try:
            whole_s = probe(media).duration_s if math.isinf(end_s) else end_s
        except VideoDecodeError:
            continue  # what is to be done about it is the policy's business, when the clip is trained on
        if whole_s is not None and whole_s > start_s:
            durations_s.append(whole_s - start_s)
    return round(statistics.median(durations_s), 3) if durations_s else None


class Skipped:
    """The policy for clips that cannot be decoded, and what came of it.

    reasons: by clip_id. num_clips: how many the run has.
    """

    def __init__(self, data: DataSection, num_clips: int, reasons: dict[str, str]):
        self.data = data
        self.num_clips = num_clips
        self.reasons = reasons

    def add(self, failures: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Those of the failures (clip_id, reason) that are new. Raises: VideoDecodeError if none may be left out."""
        new = {}
        for clip_id, reason in failures:
            if self.data.on_decode_error == "raise":
                raise VideoDecodeError(f"{clip_id}: {reason}")
            if clip_id not in self.reasons:
                new[clip_id] = self.reasons[clip_id] = reason
        return new

    def check_share(self) -> None:
        """Raises: TrainingError if too many are left out."""
        if len(self.reasons) > self.data.max_bad_share * self.num_clips:
            raise TrainingError(
                f"{len(self.reasons)} of {self.num_clips} clips cannot be decoded, more than "
                f"data.max_bad_share={self.data.max_bad_share:g}; see bad_clips.jsonl in the work folder, clean the "
                "manifest (clipvip data check --fix), or allow more"
            )
