"""Which video files there are below a folder: by extension, less what ignore rules leave out and what is no video."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from clipvip.data import LIBRARY_EXTENSIONS
from clipvip.errors import UsageError
from clipvip.search.index.records import Skipped, VideoFile

ABSENT = "the folder is missing or empty; its videos stay"
FOLDER_MARK = "ps_d"
"""The group of a pattern's regular expression in pathspec that holds the slash behind the folder that it matches."""
IGNORE_FILE = ".clipvipignore"
SYSTEM_FOLDERS = frozenset(
    (
        "#recycle", "#snapshot", "@eadir", "@tmp",  # Synology
        "@recycle", "@recently-snapshot", "@__thumb",  # QNAP
        "~snapshot",  # NetApp
        "$recycle.bin", "recycler", "recycled", "system volume information",  # Windows
        "__macosx", "network trash folder", "temporary items",  # macOS
        "lost+found", "lost.dir",  # Linux, Android
    )
)  # fmt: skip
"""In lower case, because some of these systems do not mind; hidden folders are left out anyway."""
AMBIGUOUS_EXTENSIONS = (".ts", ".mts", ".mod", ".mp", ".asf")
"""MPEG-TS, TypeScript and Qt translations; Windows Media and motion capture; MPEG of camcorders, tracker music,
modules of Go, Fortran or GRUB; motion photos and MetaPost."""
HEAD_BYTES = 8192
_OTHER_MAGIC = (b"\x7fELF", b"\x1f\x8b", b"PK\x03\x04", b"%PDF", b"\xcf\xfa\xed\xfe", b"Extended Module: ", b"IMPM")
_TRACKER_AT = 1080
_TRACKER = re.compile(rb"M[.!&]K[.!]|N\.T\.|FLT[48]|EXO[48]|OCTA|OKTA|CD[68]1|FA0[468]|TDZ[1-9]|[1-9]CHN|[1-9]\dC[HN]")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


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
    so does a look into files whose extension is not for videos alone (see `is_something_else`).
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
            nothing = VideoFile(root, path.relative_to(root).as_posix())
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
    place = Path(folder)
    return next((name for at in (place, *place.parents) if (name := at.as_posix()) in roots), None)


class IgnoreRules:
    """Which files and folders below `top` are left out, by the rules of gitignore.

    patterns: count more than ignore files, and those count more than `SYSTEM_FOLDERS`; an ignore file of an inner
    folder counts more than that of an outer one. Names and patterns are compared in Unicode NFC. Paths are
    relative to `top`, with slashes. problems: what could not be read of ignore files, as far as they were needed.
    Raises: UsageError for a malformed pattern.
    """

    def __init__(self, top: str, patterns: Sequence[str] = ()):
        self.problems: list[tuple[Path, str]] = []
        self._top = Path(top)
        self._given = _compile(patterns)
        self._files: dict[str, tuple[tuple[str, GitIgnoreSpec], ...]] = {}
        self._left_out: dict[str, bool] = {"": False}

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        """Whether a file or folder is left out by its own path, its folder being looked into."""
        folder, _, name = path.rpartition("/")
        ending = "/" if is_folder else ""
        if (verdict := _verdict(self._given, path + ending)) is not None:
            return verdict
        for base, spec in reversed(self._ignore_files(folder)):
            if (verdict := _verdict(spec, path[len(base) :] + ending)) is not None:
                return verdict
        return is_folder and name.lower() in SYSTEM_FOLDERS

    def leaves_out(self, path: str) -> bool:
        """Whether a file is left out by its own path or that of a folder it is in."""
        return self._leaves_out_folder(path.rpartition("/")[0]) or self.ignores(path, is_folder=False)

    def _leaves_out_folder(self, folder: str) -> bool:
        if folder not in self._left_out:
            outer = folder.rpartition("/")[0]
            self._left_out[folder] = self._leaves_out_folder(outer) or self.ignores(folder, is_folder=True)
        return self._left_out[folder]

    def _ignore_files(self, folder: str) -> tuple[tuple[str, GitIgnoreSpec], ...]:
        """Those of a folder and the folders around it, outer ones first, with what their paths begin with."""
        if folder not in self._files:
            outer = self._ignore_files(folder.rpartition("/")[0]) if folder else ()
            spec = self._read(self._top / folder / IGNORE_FILE)
            self._files[folder] = (*outer, (f"{folder}/" if folder else "", spec)) if spec is not None else outer
        return self._files[folder]

    def _read(self, path: Path) -> GitIgnoreSpec | None:
        try:
            lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self.problems.append((path, f"{(error.strerror or 'unreadable').lower()}; its patterns do not count"))
            return None
        good = []
        for number, line in enumerate(lines, 1):
            try:
                _compile([line])
            except UsageError:
                self.problems.append((path, f"line {number}: {line!r} is no gitignore pattern; it does not count"))
            else:
                good.append(line)
        return _compile(good)


def _compile(patterns: Iterable[str]) -> GitIgnoreSpec:
    patterns = list(patterns)
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of brackets that re may read otherwise
            return GitIgnoreSpec.from_lines(_nfc(pattern) for pattern in patterns)
    except ValueError:
        raise UsageError(
            f"{' '.join(patterns)}: no gitignore pattern; write for example 'raw/' or '*.tmp.mp4'"
        ) from None


def _verdict(spec: GitIgnoreSpec, path: str) -> bool | None:
    """Of the last pattern that matches the path itself. One that matches a folder around it has been followed there."""
    path = _nfc(path)
    for pattern in reversed(spec.patterns):
        if pattern.include is None or pattern.regex is None:  # a comment
            continue
        has_mark = FOLDER_MARK in pattern.regex.groupindex
        for found in pattern.regex.finditer(path):  # "*/" is not bound to the beginning
            if not has_mark or found.end(FOLDER_MARK) in (-1, len(path)):
                return pattern.include
    return None


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def is_something_else(path: Path) -> bool:
    """Whether a regular file with one of `AMBIGUOUS_EXTENSIONS` clearly is no video; damaged ones are none of these.

    Text has no control characters, and two packets of MPEG-TS always have some.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False  # reading it will tell why
    if head.startswith(b"\x00\x00\x01\xba"):  # MPEG, whatever else is at the place of a tracker's mark
        return False
    return head.startswith(_OTHER_MAGIC) or bool(_TRACKER.match(head, _TRACKER_AT)) or _is_text(head)


def _is_text(head: bytes) -> bool:
    """Whether it is, in UTF-16 with its mark or any encoding that keeps ASCII; nothing at all counts as text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head[: len(head) // 2 * 2].decode("utf-16", errors="ignore").encode(errors="ignore")
    return not _CONTROL.search(head)
