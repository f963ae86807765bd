"""The plain records that travel between rooms: one clip of a manifest, and embeddings with their provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

TEXTS = ("captions", "subtitle", "caption")
"""The fields of a clip that hold texts."""
SubtitleField = Literal["subtitle", "caption", "captions", "caption_subtitle_concat", "caption_subtitle_random"]
"""Where S is read from: a field, or auxiliary caption and subtitle joined ("CAPTION. with subtitle: SUBTITLE"), or one
of the two, drawn in each pass. A clip that has only one of them gives that. The last two are values of `vid_txt` in the
released code."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One line of a manifest: a video (or a part of it) or an image, with its texts.

    Exactly one of `video` and `image` is set; paths are absolute here, relative in the file. `extra` holds
    the keys clipvip does not know, so that they survive every tool.
    """

    clip_id: str
    video: Path | None = None
    image: Path | None = None
    captions: tuple[str, ...] = ()
    subtitle: str | None = None
    caption: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    split: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The media file, whichever kind it is."""
        path = self.video or self.image
        assert path is not None  # the manifest reader guarantees it
        return path

    @property
    def time_range(self) -> tuple[float, float] | None:
        """(start, end) in seconds, or None for the whole file; an open end is infinity."""
        if self.start_s is None and self.end_s is None:
            return None
        return (self.start_s or 0.0, float("inf") if self.end_s is None else self.end_s)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Unit-norm features with the ids they belong to.

    vectors: float32 [N, E]; ids: N strings, row by row; fingerprint: of the encoder that made them.
    skipped: reasons by id of what could not be decoded and was left out.
    """

    ids: tuple[str, ...]
    vectors: np.ndarray
    fingerprint: str
    skipped: Mapping[str, str] = field(default_factory=dict)
