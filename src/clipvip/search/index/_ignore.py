"""What is left out of a folder of videos: system folders, what `.clipvipignore` files name, and given patterns."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from pathspec import GitIgnoreSpec

from clipvip.errors import UsageError

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
