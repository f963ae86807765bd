"""Where training clips come from: a manifest's files here, shards elsewhere; the data set sees one interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from clipvip.records import Clip

Media: TypeAlias = Path | bytes | list[bytes]
"""A clip's file, the bytes of one, or its frames, each the bytes of a picture file."""
TEXTS = ("captions", "subtitle", "caption")


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

    def __len__(self) -> int:
        return len(self.clips)

    def load(self, index: int) -> tuple[Clip, Media]:
        """A clip and its file."""
        clip = self.clips[index]
        return clip, clip.path

    def order(self, seed: int, pass_number: int) -> np.ndarray:
        """A permutation, int64 [N]."""
        return np.random.default_rng([seed, pass_number]).permutation(len(self.clips))

    def with_text(self) -> dict[str, int]:
        """How many clips have each kind of text."""
        return {kind: sum(1 for clip in self.clips if getattr(clip, kind)) for kind in TEXTS}
