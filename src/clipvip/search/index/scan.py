"""Which video files there are below a folder, and what is known of them on their way into an index.

Shapes: n segments of a video, E embedding size.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from clipvip.data import LIBRARY_EXTENSIONS
from clipvip.errors import ClipVipError, UsageError
from clipvip.search.index._ignore import IgnoreRules
from clipvip.search.index.sniffing import AMBIGUOUS_EXTENSIONS, is_something_else
from clipvip.video import READING_RULES

logger = logging.getLogger(__name__)
ABSENT = "the folder is missing or empty; its videos stay"


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A file of a library, and what shows whether it has changed since. root is absolute, path relative to it.

    mtime_ns: brought into 64 bits, as an index has it: file systems also have files of the years 1 and 2300.
    """

    root: str
    path: str
    size_bytes: int
    mtime_ns: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "mtime_ns", min(max(self.mtime_ns, -(2**63)), 2**63 - 1))

    @property
    def absolute(self) -> Path:
        """Where the file is."""
        return Path(self.root, self.path)

    @property
    def video_id(self) -> str:
        """Of its place, not of its content."""
        return hashlib.sha256(f"{self.root}\0{self.path}".encode()).hexdigest()[:16]

    @property
    def state(self) -> tuple[int, int]:
        """Size and time: if they are as they were, so is the content."""
        return self.size_bytes, self.mtime_ns

    def again(self) -> VideoFile:
        """The same file as it is now. Raises: OSError if it is not there."""
        status = self.absolute.stat()
        return replace(self, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class KnownContent:
    """A file whose content is in the index already, or will be with another file of the same run."""

    file: VideoFile
    content_hash: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that could not be read, and why. file: None for what an index cannot name."""

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

    given: the segments are what somebody chose, not the windows of the index. reading_rules: the version of the rules
    by which the frames were read. damage: why only a part of the file could be read, and how much; None if all was.
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


@dataclass(slots=True)
class Found:
    """What a look at some folders gave.

    roots: these folders, as far as they are not within others. left_out: video files and folders that ignore rules
    leave out. no_videos: files that have the extension of a video and clearly are something else.
    """

    files: list[VideoFile] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    roots: list[str] = field(default_factory=list)
    left_out: set[Path] = field(default_factory=set)
    no_videos: set[Path] = field(default_factory=set)


def find_videos(
    dirs: Iterable[str | os.PathLike[str]], roots: Collection[str] = (), exclude: Sequence[str] = ()
) -> Found:
    """The video files, by extension, below each folder, sorted. Hidden ones are left out.

    What is named is taken itself. Below it, `IgnoreRules` with the patterns `exclude` leave files and folders out, and
    so does a look into files whose extension is not for videos alone (see `sniffing`).
    roots: folders that are known already. A file belongs to the innermost of them, so that a folder within a folder
    brings none twice. Links to folders are not followed.
    Raises: UsageError if one of `dirs` does not exist, or for a malformed pattern.
    """
    tops = sorted({os.path.abspath(os.path.expanduser(top)) for top in dirs})  # outer folders first
    found, paths = Found(), dict[Path, None]()
    named = {Path(top) for top in tops}
    for top in tops:
        if not os.path.exists(top):
            raise UsageError(f"{top}: no such file or folder")
        if os.path.isdir(top) and _is_utf8(top):
            below = _below(top, IgnoreRules(top, exclude), found)
            if _root_of(top, {*roots, *found.roots}) is None:
                found.roots.append(Path(top).as_posix())
        else:
            below = [Path(top)]
        paths |= dict.fromkeys(below)
    found.left_out -= {*named, *paths}  # a folder within another may have been named itself
    known, root_of = {*roots, *found.roots}, dict[Path, str]()
    for path in paths:
        if path.parent not in root_of:
            root_of[path.parent] = _root_of(str(path.parent), known) or path.parent.as_posix()
        root = root_of[path.parent]
        if not _is_utf8(str(path)):
            name = Path(os.fsencode(path).decode(errors="replace"))  # as far as it can be printed
            found.skipped.append(Skipped(name, "its name is not valid UTF-8; rename it"))
            continue
        try:
            status = path.stat()
        except OSError as error:
            nothing = VideoFile(root, path.relative_to(root).as_posix(), 0, 0)
            found.skipped.append(Skipped(path, (error.strerror or "unreadable").lower(), nothing))
        else:
            file = VideoFile(root, path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns)
            if not stat.S_ISREG(status.st_mode):
                found.skipped.append(Skipped(path, "not a regular file", file))
            elif path not in named and _extension(path) in AMBIGUOUS_EXTENSIONS and is_something_else(path):
                found.no_videos.add(path)
            else:
                found.files.append(file)
    return found


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_there(root: str) -> bool:
    """Whether a folder is, with something in it: an empty one may be a drive that is not mounted."""
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def is_gone(path: Path) -> bool:
    """Whether there is no such file or link; False for one that merely cannot be looked at, as on a failing disk."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _below(top: str, rules: IgnoreRules, found: Found) -> list[Path]:
    """Video files below a folder; what cannot be listed or is left out is noted."""

    def cannot_list(error: OSError) -> None:
        found.skipped.append(Skipped(Path(error.filename), (error.strerror or "unreadable").lower()))

    paths: list[Path] = []
    for place, folders, names in os.walk(top, onerror=cannot_list):
        folder = Path(place)
        within = "" if place == top else folder.relative_to(top).as_posix() + "/"
        kept = []
        for name in folders:
            if name.startswith("."):
                continue
            if rules.ignores(within + name, is_folder=True):
                found.left_out.add(folder / name)
            else:
                kept.append(name)
        folders[:] = kept
        for name in names:
            if name.startswith(".") or _extension(path := folder / name) not in LIBRARY_EXTENSIONS:
                continue
            if rules.ignores(within + name, is_folder=False):
                found.left_out.add(path)
            else:
                paths.append(path)
    found.skipped += [Skipped(path, reason) for path, reason in rules.problems]
    return sorted(paths)


def _extension(path: Path) -> str:
    return path.suffix.lower()


def _root_of(folder: str, roots: Collection[str]) -> str | None:
    """The innermost of `roots` that holds a folder, or is it."""
    place = Path(folder)
    return next((name for at in (place, *place.parents) if (name := at.as_posix()) in roots), None)
