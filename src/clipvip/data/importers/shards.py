"""What img2dataset and video2dataset download: tars of samples (`webdataset`), or the same unpacked (`files`).

A sample is the members that share a name up to the first dot: media, .txt (its caption), .json (with `caption`, `url`,
`status`). A manifest points at files, so tars need a folder to unpack their media to.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from clipvip.data.importers.base import Importer, Notes, Options
from clipvip.data.importers.reading import as_entry
from clipvip.data.media import IMAGE_EXTENSIONS, MEDIA_EXTENSIONS, VIDEO_EXTENSIONS
from clipvip.errors import ManifestError, UsageError
from clipvip.records import Clip

_LARGEST_TEXT = 1 << 26
_CHUNK = 1 << 20


@dataclass(slots=True)
class TarSample:
    """One sample: its key, where it stands, its media file (if any) and the contents of its text files."""

    key: str
    where: str
    media: Path | None = None
    texts: dict[str, bytes] = field(default_factory=dict)


def read_shards(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """The samples that have media; those whose download failed are counted."""
    for source in sources:
        source = source.absolute()
        tars = sorted(source.rglob("*.tar")) if source.is_dir() else [source]
        if not tars:
            if options.extract:
                raise UsageError(f"--extract: {source} has no tars; its files can be used as they are")
            yield from clips_of(_unpacked(source), notes)
        elif not options.extract:
            raise UsageError(f"{tars[0]}: a manifest points at files; say where to unpack the media with --extract DIR")
        for tar in tars:
            assert options.extract is not None
            yield from clips_of(_samples(tar, options.extract.absolute() / tar.name.partition(".")[0]), notes)


def clips_of(samples: Iterable[TarSample], notes: Notes) -> Iterator[Clip]:
    for sample in samples:
        if sample.media is None:
            notes.add("samples without media (failed downloads) left out")
            continue
        meta: dict[str, Any] = {}
        if "json" in sample.texts:
            meta = parse_meta(sample.texts["json"], f"{sample.where}.json")
        caption = meta.get("caption")
        if "txt" in sample.texts:
            caption = _decoded(sample.texts["txt"], f"{sample.where}.txt")
        if caption is not None and not isinstance(caption, str):
            raise ManifestError(f"{sample.where}.json: field '$.caption' must be a string, got {caption!r:.60}")
        image = sample.media.suffix.lower() in IMAGE_EXTENSIONS and sample.media.suffix.lower() not in VIDEO_EXTENSIONS
        yield Clip(
            sample.key,
            video=None if image else sample.media,
            image=sample.media if image else None,
            captions=() if caption is None else (caption,),
            extra={"url": meta["url"]} if meta.get("url") else {},
        )


def parse_meta(content: bytes, where: str) -> dict[str, Any]:
    try:
        return as_entry(json.loads(_decoded(content, where)), where).value
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: not JSON: {error}") from None


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{where}: not UTF-8 text: {error}") from None


def _unpacked(folder: Path) -> Iterator[TarSample]:
    """The samples that lie in a folder and those below it."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        useful = [name for name in names if Path(name).suffix.lower() in (*MEDIA_EXTENSIONS, ".txt", ".json")]
        useful = [name for name in useful if not name.endswith("_stats.json")]  # of a shard, beside it
        for key, group in groupby(sorted(useful, key=split_name), key=lambda name: split_name(name)[0]):
            paths = [Path(place, name) for name in group]
            yield make_sample(key, str(Path(place, key)), [(path.name, path.read_bytes, path) for path in paths])


def _samples(tar: Path, target: Path) -> Iterator[TarSample]:
    """The samples of a tar; media are unpacked into `target` as they come by."""
    try:
        with tarfile.open(tar) as archive:
            members = (member for member in archive if not member.isdir())
            for key, group in groupby(members, lambda member: split_name(safe_name(member, tar))[0]):

                def content(member: tarfile.TarInfo) -> Callable[[], bytes]:
                    return lambda: read_member(archive, member, tar)

                parts = []
                for member in group:
                    place = target / member.name
                    if place.suffix.lower() in MEDIA_EXTENSIONS:
                        _unpack(archive, member, place)
                    parts.append((PurePosixPath(member.name).name, content(member), place))
                yield make_sample(PurePosixPath(key).name, f"{tar}, {key}", parts)
            check_end(archive, tar)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # of the disk, not of what is in the file
        raise ManifestError(f"{tar}: damaged, cut off, or not a tar ({error}); download the shard again") from None


def make_sample(key: str, where: str, parts: Iterable[tuple[str, Callable[[], bytes], Path]]) -> TarSample:
    sample = TarSample(key, where)
    for name, content, place in parts:
        extension = split_name(name)[1]
        if extension in ("txt", "json"):
            sample.texts[extension] = content()
        elif place.suffix.lower() in MEDIA_EXTENSIONS and sample.media is None:
            sample.media = place
    return sample


def split_name(name: str) -> tuple[str, str]:
    """A member's key and extension: the name up to its first dot, and what follows it."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def safe_name(member: tarfile.TarInfo, tar: Path) -> str:
    """The member's name. Raises: ManifestError for links, devices, and names that lead out of the folder."""
    path = PurePosixPath(member.name)
    if not member.isreg():
        raise ManifestError(f"{tar}: field {member.name!r} is a link or device, no file; nothing of it was unpacked")
    drive = PureWindowsPath(member.name).drive
    if path.is_absolute() or drive or ".." in path.parts or not path.name or set("\\\0") & set(member.name):
        raise ManifestError(f"{tar}: field {member.name!r} leads out of the folder; it was not unpacked")
    return member.name


def read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, tar: Path) -> bytes:
    if member.size > _LARGEST_TEXT:
        raise ManifestError(f"{tar}: field {member.name!r} is no text: {member.size} bytes")
    file = archive.extractfile(member)
    assert file is not None  # a regular file, as `safe_name` has seen
    return file.read()


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    """Write a member's bytes, whole or not at all; what an earlier run wrote stays as it is."""
    file = archive.extractfile(member)
    assert file is not None
    if place.exists():
        with place.open("rb") as there:
            if all(there.read(_CHUNK) == chunk for chunk in iter(partial(file.read, _CHUNK), b"")) and not there.read(
                1
            ):
                return
        raise UsageError(f"--extract: {place} is there already and differs from {member.name}; choose another folder")
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(place.name + ".partial")
    try:
        with temporary.open("wb") as out:
            shutil.copyfileobj(file, out, _CHUNK)
        if temporary.stat().st_size != member.size:
            raise tarfile.ReadError(f"{member.name} ends too early")
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def check_end(archive: tarfile.TarFile, tar: Path) -> None:
    """A whole tar ends with empty blocks; tarfile takes a damaged header for the end without a word."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise ManifestError(f"{tar}: damaged or cut off at byte {archive.offset}; download the shard again")


SHARDS = Importer(
    "shards",
    "img2dataset or video2dataset: tars (--extract FOLDER unpacks their media) or folders of files",
    "TAR_OR_FOLDER...",
    read_shards,
    options=frozenset(("extract",)),
)
