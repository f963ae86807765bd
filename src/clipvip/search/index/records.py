"""Files and videos on their way into an index and in it. Shapes: n segments of a video, E embedding size."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from clipvip.errors import ClipVipError
from clipvip.video import READING_RULES

logger = logging.getLogger(__name__)
FIRST_RULES = 1
"""Reading rules of rows that do not record them."""


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A file of a library, and what shows whether it has changed since. root is absolute, path relative to it.

    mtime_ns: clipped to 64 bits, as an index stores it: file systems also have files of the years 1 and 2300.
    """

    root: str
    path: str
    size_bytes: int = 0
    mtime_ns: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "mtime_ns", min(max(self.mtime_ns, -(2**63)), 2**63 - 1))

    @property
    def absolute(self) -> Path:
        return Path(self.root, self.path)

    @property
    def video_id(self) -> str:
        """Depends on the place of the file, not on its content."""
        return hashlib.sha256(f"{self.root}\0{self.path}".encode()).hexdigest()[:16]

    @property
    def state(self) -> tuple[int, int]:
        """Size and time: as long as they are the same, so is the content."""
        return self.size_bytes, self.mtime_ns

    def again(self) -> VideoFile:
        """The same file as it is now. Raises: OSError if there is none."""
        status = self.absolute.stat()
        return replace(self, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class KnownContent:
    """A file whose content is in the index already, or will be with another file of the same run."""

    file: VideoFile
    content_hash: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that could not be read, and why. file: None for a name that an index cannot hold."""

    video: Path
    reason: str
    file: VideoFile | None = None

    @classmethod
    def because(cls, file: VideoFile, error: Exception) -> Skipped:
        """A file at which an error was raised. One that clipvip does not raise on purpose is logged in full."""
        if isinstance(error, OSError):
            reason = (error.strerror or str(error)).lower()
        elif isinstance(error, ClipVipError):
            reason = str(error)
        else:
            logger.debug("%s: unexpected error", file.absolute, exc_info=error)
            reason = f"unexpected {type(error).__name__}: {error}; please report it"
        return cls(file.absolute, reason.removeprefix(f"{file.absolute}: "), file)


@dataclass(frozen=True, slots=True)
class EncodedVideo:
    """A file with its segments (start_s, end_s), their vectors float32 [n, E] and thumbnails (JPEG, or None).

    given: the segments come from an embedding set, they are not the windows of the index. reading_rules: the version
    of the rules by which the frames were read. damage: why only a part of the file could be read; None if all was.
    """

    file: VideoFile
    content_hash: str
    duration_s: float
    width: int
    height: int
    segments: list[tuple[float, float]]
    vectors: np.ndarray
    thumbnails: list[bytes | None]
    given: bool = False
    reading_rules: int = READING_RULES
    damage: str | None = None

    @property
    def covered_s(self) -> float:
        """How much of the video is in its segments: less than its duration where its clock jumps."""
        covered_s, until_s = 0.0, 0.0
        for start_s, end_s in sorted(self.segments):
            covered_s += max(0.0, end_s - max(start_s, until_s))
            until_s = max(until_s, end_s)
        return covered_s


Outcome: TypeAlias = EncodedVideo | KnownContent | Skipped
"""What became of a file on its way into an index."""


@dataclass(frozen=True, slots=True)
class Write:
    """A file whose segments are written: encoded ones, or those of an indexed file with the same content.

    replaces: video_ids whose rows are deleted in the same version of the table; of a file that was moved, the last one
    is that of its old place. kind: the count of `IndexSummary`.
    """

    video: EncodedVideo | KnownContent
    replaces: tuple[str, ...] = ()
    kind: str = "videos"


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be changed in an index. removed: video_ids whose rows are deleted. failures: files that could not be
    indexed, or only in part, and why. solved: files whose failures are forgotten. waiting: files of known content
    whose rows are not written yet; they are no change.
    """

    writes: Sequence[Write] = ()
    removed: Sequence[str] = ()
    failures: Sequence[tuple[VideoFile, str]] = ()
    solved: Sequence[VideoFile] = ()
    waiting: Sequence[KnownContent] = ()


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """An indexed file, as it was when it was read. root is absolute, path relative to it.

    reading_rules: the oldest version of the reading rules among its segments. num_windows: into how many segments it
    was cut; None where that was not recorded.
    """

    video_id: str
    root: str
    path: str
    content_hash: str
    size_bytes: int
    mtime_ns: int
    duration_s: float
    width: int
    height: int
    num_segments: int
    reading_rules: int = FIRST_RULES
    num_windows: int | None = None

    @property
    def absolute(self) -> Path:
        """Where the file is, or was."""
        return Path(self.root, self.path)

    @property
    def is_older(self) -> bool:
        return self.reading_rules < READING_RULES


@dataclass(frozen=True, slots=True)
class Segment:
    segment_id: str
    video_id: str
    start_s: float
    end_s: float
