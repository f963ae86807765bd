"""Clips to training samples: which frames, which text, decoded and made into tensors.

Every draw is a pure function of (seed, pass, clip), so a resumed run sees what an uninterrupted one would have seen.

Shapes: B clips, T frames, S image size, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from clipvip.errors import ManifestError, VideoDecodeError
from clipvip.records import Clip
from clipvip.video import jittered_indices, middle_index, read_frames, read_image, uniform_indices

Tokenize = Callable[[Sequence[str]], dict[str, Tensor]]
ToPixels = Callable[[np.ndarray], Tensor]


@dataclass(frozen=True, slots=True)
class Sources:
    """Which of a clip's fields play which part in omnisource learning.

    subtitle: the field of S, "subtitle" or "captions" (one drawn a pass); caption: the field of C, or None;
    frame: whether F, the middle frame, is wanted.
    """

    subtitle: Literal["subtitle", "captions"] = "captions"
    caption: Literal["caption"] | None = None
    frame: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip, ready to be batched. `failure` is set, and the rest empty, where decoding failed."""

    clip_id: str
    video: np.ndarray | None = None  # uint8 [T, H, W, 3]
    frame: np.ndarray | None = None  # uint8 [1, H, W, 3]
    subtitle: str | None = None
    caption: str | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Tokenised texts; `valid` [B] is False where the clip has none (its row then holds an empty text)."""

    input_ids: Tensor  # [B, N]
    attention_mask: Tensor  # [B, N]
    valid: Tensor  # bool [B]

    def to(self, device: torch.device) -> TextBatch:
        """A copy on `device`."""
        move = partial(Tensor.to, device=device, non_blocking=True)
        return TextBatch(move(self.input_ids), move(self.attention_mask), move(self.valid))


@dataclass(frozen=True, slots=True)
class Batch:
    """The four sources of a batch: V [B, T, 3, S, S], F [B, 1, 3, S, S], S and C texts; None where not wanted."""

    clip_ids: tuple[str, ...]
    video: Tensor
    frame: Tensor | None
    subtitle: TextBatch
    caption: TextBatch | None
    failures: tuple[tuple[str, str], ...] = ()

    def to(self, device: torch.device) -> Batch:
        """A copy on `device`."""
        return replace(
            self,
            video=self.video.to(device, non_blocking=True),
            frame=None if self.frame is None else self.frame.to(device, non_blocking=True),
            subtitle=self.subtitle.to(device),
            caption=None if self.caption is None else self.caption.to(device),
        )


class ClipDataset(Dataset[Sample]):
    """Samples addressed by (pass, index), as `PassSampler` hands them out.

    num_frames: T. jitter: the released code's jittered sampling (else uniform). decoder_size: `size` for `read_frames`.
    on_decode_error: "raise", or "skip" (the sample carries the reason).
    cache: keep decoded files in memory, once in every loader process; for sets of small files.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        num_frames: int,
        sources: Sources,
        seed: int,
        jitter: bool = True,
        decoder_size: tuple[int, int] | int | None = None,
        on_decode_error: Literal["raise", "skip"] = "raise",
        cache: bool = False,
    ):
        self.clips = list(clips)
        self.num_frames = num_frames
        self.sources = sources
        self.seed = seed
        self.jitter = jitter
        self.decoder_size = decoder_size
        self.on_decode_error = on_decode_error
        self.cache: dict[int, np.ndarray] | None = {} if cache else None
        if sources.caption and not any(clip.caption for clip in self.clips):
            raise ManifestError(
                f"none of {len(self.clips)} clips has a 'caption' (first: {self.clips[0].clip_id}); "
                "this loss variant needs auxiliary captions"
            )
        if not any(any(self._texts(clip)) for clip in self.clips):
            raise ManifestError(
                f"none of {len(self.clips)} clips has a {sources.subtitle!r} text (first: {self.clips[0].clip_id}); "
                "check the manifest or data.subtitle of the recipe"
            )

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, address: tuple[int, int]) -> Sample:
        pass_number, index = address
        clip = self.clips[index]
        rng = np.random.default_rng([self.seed, pass_number, index])
        texts = self._texts(clip)
        subtitle = texts[rng.integers(len(texts))] if texts else None
        caption = clip.caption if self.sources.caption else None
        try:
            video, frame = self._frames(clip, index, rng)
        except VideoDecodeError as error:
            if self.on_decode_error == "raise":
                raise
            return Sample(clip.clip_id, failure=str(error))
        return Sample(clip.clip_id, video, frame, subtitle or None, caption or None)

    def _texts(self, clip: Clip) -> tuple[str, ...]:
        if self.sources.subtitle == "captions":
            return clip.captions
        return (clip.subtitle,) if clip.subtitle else ()

    def _frames(self, clip: Clip, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """The sampled frames [T, H, W, 3] and, if wanted, the middle frame [1, H, W, 3], from one decode."""
        if clip.image is not None:
            picture = self._decoded(clip, index)[:1]
            return picture, picture if self.sources.frame else None

        def choose(total: int) -> np.ndarray:
            if total == 1:
                sample = np.zeros(1, np.int64)  # a single-frame file is an image: T = 1
            elif self.jitter:
                sample = jittered_indices(total, self.num_frames, rng)
            else:
                sample = uniform_indices(total, self.num_frames)
            return np.append(sample, middle_index(total)) if self.sources.frame else sample

        if self.cache is None:
            frames = read_frames(clip.path, choose, time_range=clip.time_range, size=self.decoder_size)
        else:
            decoded = self._decoded(clip, index)
            frames = decoded[choose(len(decoded))]
        return (frames[:-1], frames[-1:]) if self.sources.frame else (frames, None)

    def _decoded(self, clip: Clip, index: int) -> np.ndarray:
        """All frames of a clip, uint8 [F, H, W, 3], remembered if there is a cache."""
        if self.cache is not None and index in self.cache:
            return self.cache[index]
        if clip.image is not None:
            frames = read_image(clip.image)[None]
        else:
            frames = read_frames(clip.path, np.arange, time_range=clip.time_range, size=self.decoder_size)
        if self.cache is not None:
            self.cache[index] = frames
        return frames


@dataclass(frozen=True, slots=True)
class Collator:
    """Samples to a batch; failed ones are left out and listed.

    tokenize: texts to padded ids and mask. to_pixels: frames uint8 [F, H, W, 3] to [F, 3, S, S].
    Raises: VideoDecodeError if all failed; ManifestError if videos of different T meet.
    """

    tokenize: Tokenize
    to_pixels: ToPixels
    sources: Sources

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch."""
        failures = tuple((sample.clip_id, sample.failure) for sample in samples if sample.failure is not None)
        good = [sample for sample in samples if sample.failure is None]
        if not good:
            raise VideoDecodeError(f"not one clip of a batch could be decoded; the first: {failures[0][1]}")
        videos = [sample.video for sample in good if sample.video is not None]
        if len({len(video) for video in videos}) != 1:
            odd = min(zip(videos, good, strict=True), key=lambda pair: len(pair[0]))[1].clip_id
            raise ManifestError(f"{odd}: an image or single-frame file among videos; keep them in a manifest apart")
        frames = [sample.frame for sample in good if sample.frame is not None]
        return Batch(
            clip_ids=tuple(sample.clip_id for sample in good),
            video=self._pixels(videos),
            frame=self._pixels(frames) if self.sources.frame else None,
            subtitle=self._texts([sample.subtitle for sample in good]),
            caption=self._texts([sample.caption for sample in good]) if self.sources.caption else None,
            failures=failures,
        )

    def _pixels(self, clips: Sequence[np.ndarray]) -> Tensor:
        """[B, T, 3, S, S]; in one go where all clips have one size, as after scaling in the decoder."""
        if len({clip.shape for clip in clips}) == 1:
            return self.to_pixels(np.concatenate(clips)).unflatten(0, (len(clips), -1))
        return torch.stack([self.to_pixels(clip) for clip in clips])

    def _texts(self, texts: Sequence[str | None]) -> TextBatch:
        tokens = self.tokenize([text or "" for text in texts])
        valid = torch.tensor([text is not None for text in texts], dtype=torch.bool)
        return TextBatch(tokens["input_ids"], tokens["attention_mask"], valid)
