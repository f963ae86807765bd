"""Clips to training samples: where clips are, which frames and texts of them, decoded and made into tensors.

Every draw is a pure function of (seed, pass, clip), so a resumed run sees what an uninterrupted one would have seen.

Shapes: B clips, T frames, S image size, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from clipvip.data.frame_folders import read_frame_folder
from clipvip.errors import ManifestError, VideoDecodeError
from clipvip.records import TEXTS, Clip, SubtitleField
from clipvip.video import jittered_indices, middle_index, read_frames, read_image, uniform_indices
from clipvip.video.transforms import centre_cut

Tokenize = Callable[[Sequence[str]], dict[str, Tensor]]
ToPixels = Callable[[np.ndarray | Tensor], Tensor]
Media: TypeAlias = Path | bytes | list[bytes]
"""A clip's file, the bytes of one, or its frames, each the bytes of an image file."""
_OF_BOTH = ("caption_subtitle_concat", "caption_subtitle_random")


@dataclass(frozen=True, slots=True)
class Sources:
    """Which of a clip's fields play which part in omnisource learning.

    subtitle: where S is read from; caption: the field of C, or None (of several "captions" one is drawn a pass); frame:
    whether F, the middle frame, is wanted; join_captions: "captions" are joined by spaces instead.
    """

    subtitle: SubtitleField = "captions"
    caption: Literal["caption", "captions"] | None = None
    frame: bool = False
    join_captions: bool = False


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
        return self.each(partial(Tensor.to, device=device, non_blocking=True))

    def each(self, change: Callable[[Tensor], Tensor]) -> TextBatch:
        """A copy with `change` applied to every tensor."""
        return TextBatch(change(self.input_ids), change(self.attention_mask), change(self.valid))


@dataclass(frozen=True, slots=True)
class Batch:
    """The four sources of a batch: V and F (T = 1) pictures, S and C texts; None where not wanted.

    Pictures of the model's size are still uint8 [B, T, S, S, 3], a quarter of the bytes to hand on; those that had to
    be scaled are pixel values, float32 [B, T, 3, S, S]. `normalized` makes all of them the latter.
    """

    clip_ids: tuple[str, ...]
    video: Tensor
    frame: Tensor | None
    subtitle: TextBatch
    caption: TextBatch | None
    failures: tuple[tuple[str, str], ...] = ()

    def to(self, device: torch.device) -> Batch:
        """A copy on `device`."""
        return self.each(partial(Tensor.to, device=device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """A copy that a GPU can fetch while it computes (the loader calls this)."""
        return self.each(Tensor.pin_memory)

    def parts(self, size: int) -> list[Batch]:
        """The batch in parts of `size` clips (the last may be smaller), views of its tensors."""
        return [
            replace(self.each(itemgetter(slice(start, start + size))), clip_ids=self.clip_ids[start : start + size])
            for start in range(0, max(len(self.clip_ids), 1), size)
        ]

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A copy with `change` applied to every tensor."""
        return replace(
            self,
            video=change(self.video),
            frame=None if self.frame is None else change(self.frame),
            subtitle=self.subtitle.each(change),
            caption=None if self.caption is None else self.caption.each(change),
        )

    def normalized(self, to_pixels: ToPixels) -> Batch:
        """With pixel values for all pictures, made where they are. to_pixels: uint8 [F, S, S, 3] to [F, 3, S, S]."""

        def pixels(pictures: Tensor) -> Tensor:
            if pictures.dtype != torch.uint8:
                return pictures
            return to_pixels(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])

        return replace(self, video=pixels(self.video), frame=None if self.frame is None else pixels(self.frame))


class ClipSource(Protocol):
    """Clips by index, with their media."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> tuple[Clip, Media]:
        """A clip and its media, which may have been cut already: `clip.time_range` says what is still to be cut."""

    def order(self, seed: int, pass_number: int) -> np.ndarray:
        """The order of one pass, a pure function: int64 [N], each clip once."""

    def with_text(self) -> Mapping[str, int]:
        """How many clips have "captions", a "subtitle", a "caption"."""


class ManifestClips:
    """The clips of a manifest, in any order: their files are there to be opened."""

    def __init__(self, clips: Sequence[Clip]):
        self.clips = list(clips)
        self.media = [clip.path for clip in self.clips]

    def __len__(self) -> int:
        return len(self.clips)

    def load(self, index: int) -> tuple[Clip, Media]:
        """A clip and its file."""
        return self.clips[index], self.media[index]

    def order(self, seed: int, pass_number: int) -> np.ndarray:
        """A permutation, int64 [N]."""
        return np.random.default_rng([seed, pass_number]).permutation(len(self.clips))

    def with_text(self) -> dict[str, int]:
        """How many clips have each kind of text."""
        return {kind: sum(1 for clip in self.clips if getattr(clip, kind)) for kind in TEXTS}


class ClipDataset(Dataset[Sample]):
    """Samples addressed by (pass, index).

    num_frames: T. jitter: the released code's jittered sampling (else uniform). decoder_size: `size` for `read_frames`.
    A sample of a clip that cannot be decoded carries the reason.
    cache: keep decoded files in memory, once in every loader process; for sets of small files.
    Raises: ManifestError if no clip has the texts that `sources` names.
    """

    def __init__(
        self,
        clips: ClipSource,
        *,
        num_frames: int,
        sources: Sources,
        seed: int,
        jitter: bool = True,
        decoder_size: tuple[int, int] | int | None = None,
        cache: bool = False,
    ):
        self.clips = clips
        self.num_frames = num_frames
        self.sources = sources
        self.seed = seed
        self.jitter = jitter
        self.decoder_size = decoder_size
        self.cache: dict[int, np.ndarray] | None = {} if cache else None
        there = clips.with_text()
        if sources.caption and not there[sources.caption]:
            raise ManifestError(
                f"none of {len(clips)} clips has a {sources.caption!r} text (first: {clips.load(0)[0].clip_id}); "
                "this loss variant needs auxiliary captions"
            )
        fields = ("caption", "subtitle") if sources.subtitle in _OF_BOTH else (sources.subtitle,)
        if not any(there[field] for field in fields):
            raise ManifestError(
                f"none of {len(clips)} clips has a {' or '.join(map(repr, fields))} text (first: "
                f"{clips.load(0)[0].clip_id}); check the manifest or data.subtitle of the recipe"
            )

    def __len__(self) -> int:
        return len(self.clips)

    def order(self, seed: int, pass_number: int) -> np.ndarray:
        """The order of one pass, int64 [N]."""
        return self.clips.order(seed, pass_number)

    def __getitem__(self, address: tuple[int, int]) -> Sample:
        pass_number, index = address
        clip, media = self.clips.load(index)
        rng = np.random.default_rng([self.seed, pass_number, index])
        subtitle = self._text(clip, self.sources.subtitle, rng)
        caption = self._text(clip, self.sources.caption, rng) if self.sources.caption else None
        try:
            video, frame = self._frames(clip, media, index, rng)
        except VideoDecodeError as error:
            return Sample(clip.clip_id, failure=str(error))
        return Sample(clip.clip_id, video, frame, subtitle, caption)

    def _text(self, clip: Clip, field: str, rng: np.random.Generator) -> str | None:
        """The text that plays a part: the field's, of several captions one or all, or one made of two fields."""
        if field in _OF_BOTH:
            caption, subtitle = clip.caption or None, clip.subtitle or None
            if caption is None or subtitle is None:
                return caption or subtitle
            if field == "caption_subtitle_concat":
                return f"{caption}. with subtitle: {subtitle}"
            return caption if rng.integers(2) else subtitle
        texts = clip.captions if field == "captions" else (getattr(clip, field),)
        if field == "captions" and self.sources.join_captions:
            return " ".join(texts) or None
        return (texts[rng.integers(len(texts))] or None) if texts else None

    def _frames(
        self, clip: Clip, media: Media, index: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The sampled frames [T, H, W, 3] and, if wanted, the middle frame [1, H, W, 3], from one decode."""
        if clip.image is not None:
            picture = self._decoded(clip, media, index)[:1]
            return picture, picture if self.sources.frame else None

        def choose(total: int) -> np.ndarray:
            if total == 1:
                sample = np.zeros(1, np.int64)  # a single-frame file is an image: T = 1
            elif self.jitter:
                sample = jittered_indices(total, self.num_frames, rng)
            else:
                sample = uniform_indices(total, self.num_frames)
            return np.append(sample, middle_index(total)) if self.sources.frame else sample

        if isinstance(media, Path) and media.is_dir() and self.cache is None:
            frames = read_frame_folder(media, choose, clip.time_range)
        elif isinstance(media, list) and self.cache is None:
            chosen, where = np.unique(choose(len(media)), return_inverse=True)
            frames = np.stack([read_image(media[i]) for i in chosen.tolist()])[where]
        elif isinstance(media, list) or self.cache is not None:
            decoded = self._decoded(clip, media, index)
            frames = decoded[choose(len(decoded))]
        else:
            frames = read_frames(media, choose, time_range=clip.time_range, size=self.decoder_size)
        return (frames[:-1], frames[-1:]) if self.sources.frame else (frames, None)

    def _decoded(self, clip: Clip, media: Media, index: int) -> np.ndarray:
        """All frames of a clip, uint8 [F, H, W, 3], remembered if there is a cache."""
        if self.cache is not None and index in self.cache:
            return self.cache[index]
        if isinstance(media, list):
            frames = np.stack([read_image(frame) for frame in media])
        elif isinstance(media, Path) and media.is_dir():
            frames = read_frame_folder(media, np.arange, clip.time_range)
        elif clip.image is not None:
            frames = read_image(media)[None]
        else:
            frames = read_frames(media, np.arange, time_range=clip.time_range, size=self.decoder_size)
        if self.cache is not None:
            self.cache[index] = frames
        return frames


@dataclass(frozen=True, slots=True)
class Collator:
    """Samples to a batch; failed ones are left out and listed.

    tokenize: texts to padded ids and mask. to_pixels: frames uint8 [F, H, W, 3] to [F, 3, S, S].
    image_size, resize: S, and how frames become square.
    A batch of which all failed is a placeholder. Raises: ManifestError if videos of different T meet.
    """

    tokenize: Tokenize
    to_pixels: ToPixels
    image_size: int
    resize: str
    sources: Sources

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch."""
        failures = tuple((sample.clip_id, sample.failure) for sample in samples if sample.failure is not None)
        good = [sample for sample in samples if sample.failure is None]
        if not good:
            return self._placeholder(failures)
        videos = [sample.video for sample in good if sample.video is not None]
        if len({len(video) for video in videos}) != 1:
            odd = min(zip(videos, good, strict=True), key=lambda pair: len(pair[0]))[1].clip_id
            raise ManifestError(f"{odd}: an image or single-frame file among videos; keep them in a manifest apart")
        frames = [sample.frame for sample in good if sample.frame is not None]
        return Batch(
            clip_ids=tuple(sample.clip_id for sample in good),
            video=self._pictures(videos),
            frame=self._pictures(frames) if self.sources.frame else None,
            subtitle=self._texts([sample.subtitle for sample in good]),
            caption=self._texts([sample.caption for sample in good]) if self.sources.caption else None,
            failures=failures,
        )

    def _placeholder(self, failures: tuple[tuple[str, str], ...]) -> Batch:
        black = torch.zeros(1, 1, self.image_size, self.image_size, 3, dtype=torch.uint8)
        caption = self._texts([None]) if self.sources.caption else None
        return Batch((), black, black if self.sources.frame else None, self._texts([None]), caption, failures)

    def _pictures(self, clips: Sequence[np.ndarray]) -> Tensor:
        """uint8 [B, T, S, S, 3] if no clip has to be scaled, else pixel values [B, T, 3, S, S]."""
        cut = [centre_cut(clip, self.image_size, self.resize) for clip in clips]
        fitting = [clip for clip in cut if clip is not None]
        if len(fitting) == len(clips):
            return torch.from_numpy(np.stack(fitting))
        return torch.stack([self.to_pixels(clip) for clip in clips])

    def _texts(self, texts: Sequence[str | None]) -> TextBatch:
        tokens = self.tokenize([text or "" for text in texts])
        valid = torch.tensor([text is not None for text in texts], dtype=torch.bool)
        return TextBatch(tokens["input_ids"], tokens["attention_mask"], valid)
