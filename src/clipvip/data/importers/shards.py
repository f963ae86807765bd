"""What img2dataset and video2dataset download: tars of samples (`webdataset`), or the same unpacked (`files`).

A sample is media, .txt (its caption) and .json (with `caption`, `url`, `status`), found by the rule of `samples_of`
here and in training. A manifest points at files, so tars need a folder to unpack their media to.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from clipvip.data.importers.base import Importer, Notes, Options
from clipvip.data.importers.reading import as_entry
from clipvip.data.media import IMAGE_EXTENSIONS, MEDIA_EXTENSIONS, VIDEO_EXTENSIONS
from clipvip.errors import ManifestError, UsageError
from clipvip.files import replacing
from clipvip.records import Clip

_LARGEST_TEXT = 1 << 26
_CHUNK = 1 << 20
_TEXTS = ("txt", "json")
T = TypeVar("T")


@dataclass(slots=True)
class TarSample:
    """One sample: its key, where it is, its media files (if any) and the contents of its text files.

    shard: the name of its tar or folder.
    """

    key: str
    where: str
    shard: str
    videos: list[Path] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)

    @property
    def media(self) -> Path | None:
        """The video, or without one the image."""
        return next(iter((*self.videos, *self.images)), None)


Content = tuple[str, Callable[[], bytes], Path]
"""A file of a sample: its name with folders, its bytes, where it is or will be."""


def samples_of(members: Iterable[T], name_of: Callable[[T], str], where: str) -> Iterator[tuple[str, list[T]]]:
    """The members of each sample, in their order, with the sample's key (folders included).

    Members that share a name up to the first dot are one sample, as in WebDataset, if one of them has no other dot
    ("7.json" with "7.0.jpg" and "7.1.jpg"), or one is a medium and none is a text of
    its name ("7.image.jpg" with "7.caption.txt"). Else they are one sample for each name less its last extension: of
    "a_00.51.mp4", "a_00.51.txt" and "a_00.54.mp4" the first two, and the third.
    Raises: ManifestError for members of a sample that are not together, or two samples of one name.
    """
    complete: dict[str, bool] = {}  # by name up to the first dot: whether a member had no other dot
    for prefix, group in groupby(members, key=lambda member: split_name(name_of(member))[0]):
        run = list(group)
        is_one = any(_stem(name_of(member)) == prefix for member in run) or _has_one_medium([*map(name_of, run)])
        parts = (
            [(prefix, run)]
            if is_one
            else [(key, list(part)) for key, part in groupby(run, key=lambda member: _stem(name_of(member)))]
        )
        repeated = prefix in complete and (is_one or complete[prefix])
        for key, part in parts:
            if repeated or key in complete:
                raise ManifestError(
                    f"{where}: sample {key!r} comes in pieces, or twice ({name_of(part[0])!r} is apart from its other "
                    "members); sort the tar, or unpack it and import the folder"
                )
            complete[key] = is_one
            yield key, part
        complete[prefix] = is_one


def _has_one_medium(names: Sequence[str]) -> bool:
    """Whether all but one are texts whose names are not that of the medium: "7.image.jpg" and "7.caption.txt"."""
    media = [name for name in names if name.lower().endswith((*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS))]
    return len(media) == 1 < len(names) and [_stem(name) for name in names].count(_stem(media[0])) == 1


def _stem(name: str) -> str:
    """A name less its last extension."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + (base.rpartition(".")[0] or base)


def read_shards(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """The samples that have media; those whose download failed are counted."""
    return with_ids(_all_samples(sources, options), notes)


def with_ids(samples: Iterable[TarSample], notes: Notes) -> Iterator[Clip]:
    """Their clips, whose id is the key, or SHARD/KEY if an earlier shard has a sample of that key.

    Raises: ManifestError if that is not unique either.
    """
    seen: set[int] = set()  # hashes, an eighth of the memory
    for sample in samples:
        for clip in clips_of([sample], notes):
            clip_id = clip.clip_id if hash(clip.clip_id) not in seen else f"{sample.shard}/{clip.clip_id}"
            if hash(clip_id) in seen:
                raise ManifestError(
                    f"{sample.where}: another sample has the id {clip_id!r} already; is a shard given twice, or are "
                    "there two of one name? Import them one by one"
                )
            seen.add(hash(clip_id))
            yield replace(clip, clip_id=clip_id)


def _all_samples(sources: Sequence[Path], options: Options) -> Iterator[TarSample]:
    for source in sources:
        source = source.absolute()
        tars = sorted(source.rglob("*.tar")) if source.is_dir() else [source]
        if not tars:
            if options.extract:
                raise UsageError(f"--extract: {source} has no tars; its files can be used as they are")
            yield from _unpacked(source)
        elif not options.extract:
            raise UsageError(f"{tars[0]}: a manifest points at files; say where to unpack the media with --extract DIR")
        for tar in tars:
            assert options.extract is not None
            yield from _samples(tar, options.extract.absolute() / tar.name.partition(".")[0])


def clips_of(samples: Iterable[TarSample], notes: Notes) -> Iterator[Clip]:
    for sample in samples:
        if sample.media is None:
            notes.add("samples without media (failed downloads) left out")
            continue
        alike = sample.videos or sample.images
        if len(alike) > 1:
            names = ", ".join(path.name for path in alike[:3])
            raise ManifestError(
                f"{sample.where}: {len(alike)} media files in one sample ({names}); rename them so that their names "
                "differ before the first dot"
            )
        if sample.videos and sample.images:
            notes.add("images beside a video of the same name left out", len(sample.images))
        meta: dict[str, Any] = {}
        if "json" in sample.texts:
            meta = parse_meta(sample.texts["json"], f"{sample.where}.json")
        caption = meta.get("caption")
        if "txt" in sample.texts:
            caption = _decoded(sample.texts["txt"], f"{sample.where}.txt")
        if caption is not None and not isinstance(caption, str):
            raise ManifestError(f"{sample.where}.json: field '$.caption' must be a string, got {caption!r:.60}")
        yield Clip(
            sample.key,
            video=sample.media if sample.videos else None,
            image=None if sample.videos else sample.media,
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
        files = sorted(
            (Path(place, name) for name in useful), key=lambda path: (split_name(path.name)[0], path.stem, path.name)
        )
        for key, paths in samples_of(files, lambda path: path.name, place):
            parts: list[Content] = [(path.name, path.read_bytes, path) for path in paths]
            yield make_sample(key, str(Path(place, key)), Path(place).name, parts)


def _samples(tar: Path, target: Path) -> Iterator[TarSample]:
    """The samples of a tar; media are unpacked into `target` as they come by."""
    try:
        with tarfile.open(tar) as archive:
            for key, parts in samples_of(_contents(archive, tar, target), lambda content: content[0], str(tar)):
                yield make_sample(PurePosixPath(key).name, f"{tar}, {key}", tar.name.partition(".")[0], parts)
            check_end(archive, tar)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # of the disk, not of what is in the file
        raise ManifestError(f"{tar}: damaged, cut off, or not a tar ({error}); download the shard again") from None


def _contents(archive: tarfile.TarFile, tar: Path, target: Path) -> Iterator[Content]:
    """The files of a tar, read or unpacked in their order: going back in a compressed tar takes very long."""
    for member in archive:
        if member.isdir():
            continue
        name = safe_name(member, tar)
        place, content = target / name, b""
        if place.suffix.lower() in MEDIA_EXTENSIONS:
            _unpack(archive, member, place)
        elif extension_of(name) in _TEXTS:
            content = read_member(archive, member, tar)
        yield name, partial(bytes, content), place


def make_sample(key: str, where: str, shard: str, parts: Iterable[Content]) -> TarSample:
    sample = TarSample(key, where, shard)
    for name, content, place in parts:
        extension = extension_of(name)
        if extension in _TEXTS and (extension not in sample.texts or split_name(name)[1] == extension):
            sample.texts[extension] = content()
        elif f".{extension}" in VIDEO_EXTENSIONS:
            sample.videos.append(place)
        elif f".{extension}" in IMAGE_EXTENSIONS:
            sample.images.append(place)
    return sample


def extension_of(name: str) -> str:
    """What follows the last dot, in lower case."""
    return PurePosixPath(name).suffix.lower().removeprefix(".")


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
    with replacing(place, sync=False) as temporary:
        with temporary.open("wb") as out:
            shutil.copyfileobj(file, out, _CHUNK)
        if temporary.stat().st_size != member.size:
            raise tarfile.ReadError(f"{member.name} ends too early")


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
