"""Media files on disk: which are there, and under which of the names that data sets are handed around with."""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

VIDEO_EXTENSIONS = (
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".3gp", ".3g2", ".wmv", ".flv", ".ts", ".mts",
    ".m2ts", ".ogv", ".gif", ".vob", ".asf", ".f4v", ".m2v", ".m1v", ".mpe", ".m2t", ".m2p", ".vro", ".tod", ".ogm",
    ".qt", ".divx", ".mxf", ".ivf", ".mk3d", ".3gpp", ".insv", ".dv",
)  # fmt: skip
"""In the order in which one of several files of the same name is chosen."""
LIBRARY_EXTENSIONS = (*VIDEO_EXTENSIONS, ".mod", ".mp")
"""Also those that only a folder of somebody's own videos has: in data sets such an ending may belong to the name."""
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif")
MEDIA_EXTENSIONS = frozenset((*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS))


class MediaFolder:
    """Looks files up in folder listings, each read once: one call a folder, not a dozen a file.

    Files are taken to stay as they are while the object lives.
    """

    def __init__(self) -> None:
        self._names = lru_cache(maxsize=256)(_names)
        self._stored = lru_cache(maxsize=256)(self._look_up)

    def exists(self, path: str) -> bool:
        """Whether there is a file (or a folder of frames) of exactly this name."""
        folder, name = os.path.split(path)
        return name in self._names(folder)[0]

    def find(self, paths: Iterable[str], extensions: tuple[str, ...]) -> str | None:
        """The first of `paths` that is there, as it is or with another extension (also put behind its own).

        Names are also found in another form of Unicode: lists are written in NFC, and Macs store NFD.
        """
        for path in paths:
            folder, name = os.path.split(path)
            folder = self._stored(folder)
            names, stems, stored = self._names(folder)
            if name in names or (name := stored.get(_nfc(name), name)) in names:
                return os.path.join(folder, name)
            for stem in (without_extension(name), name):
                found = [other for other in stems.get(_nfc(stem), ()) if _extension(other) in extensions]
                if found:
                    return os.path.join(folder, min(found, key=lambda other: extensions.index(_extension(other))))
        return None

    def _look_up(self, folder: str) -> str:
        """A folder by the name under which it is stored."""
        if folder.isascii() or os.path.isdir(folder):
            return folder
        outer, name = os.path.split(folder)
        if outer == folder:
            return folder
        outer = self._stored(outer)
        return os.path.join(outer, self._names(outer)[2].get(_nfc(name), name))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def without_extension(name: str) -> str:
    """`name` less a media extension; "00.12-00.15" keeps all of it."""
    stem, extension = os.path.splitext(name)
    return stem if extension.lower() in MEDIA_EXTENSIONS else name


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _names(folder: str) -> tuple[frozenset[str], dict[str, list[str]], dict[str, str]]:
    """The names in a folder; media by their names in NFC without an extension; other names than ASCII by their NFC."""
    try:
        names = sorted(os.listdir(folder or os.curdir))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise
        names = []
    stems: dict[str, list[str]] = {}
    for name in names:
        if _extension(name) in MEDIA_EXTENSIONS:
            stems.setdefault(_nfc(without_extension(name)), []).append(name)
    return frozenset(names), stems, {_nfc(name): name for name in names if not name.isascii()}
