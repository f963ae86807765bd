"""The members of a tar as clips: where each stands in a whole one, and what is in a stretch of one.

Rows are ours (`layout`), or .json and .txt as the importer of shards reads them.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import IO, Any

from clipvip.data.importers.base import Notes
from clipvip.data.importers.shards import (
    Content,
    TarSample,
    check_end,
    clips_of,
    make_sample,
    parse_meta,
    read_member,
    safe_name,
    samples_of,
    split_name,
)
from clipvip.data.shards.layout import INDEX, from_row, is_row
from clipvip.errors import ClipVipError
from clipvip.records import Clip

_BLOCK = tarfile.BLOCKSIZE


def scan_tar(file: IO[bytes], path: str) -> Iterator[tuple[int, int, Clip]]:
    """The clips of an open tar, and at which bytes their members begin and end.

    A clip is a sample (see `samples_of`) that has media; others (failed downloads) are passed over. Headers, .json and
    .txt are read, media are not.
    Raises: ClipVipError for what is no whole, plain tar; ManifestError for malformed .json or .txt, links and devices.
    """
    name = Path(path)
    with _damage(path, "not a tar, or a compressed or damaged one"), tarfile.open(fileobj=file, mode="r:") as archive:
        members = (member for member in archive if not member.isdir())
        for key, group in samples_of(members, lambda member: safe_name(member, name), path):
            places: list[tuple[int, int]] = []
            parts: list[Content] = []
            for member in group:
                places.append((member.offset, member.offset_data + -(-member.size // _BLOCK) * _BLOCK))
                read = partial(read_member, archive, member, name)
                parts.append((member.name, read, Path(member.name)))
            sample = make_sample(PurePosixPath(key).name, f"{path}, {key}", shard_name(path), parts)
            clip = _clip_of(sample, _row_of(sample))
            if clip is not None:
                yield places[0][0], places[-1][1], clip
        check_end(archive, name)


def parse_clip(content: bytes, where: str) -> tuple[Clip, bytes | list[bytes]]:
    """The members of one clip to the clip and its file's bytes, or those of its frames.

    Raises: ClipVipError if they are not the members of one clip.
    """
    unfit = f"does not hold a clip; {INDEX} or the shard is not the one that was written"
    members: list[tuple[str, bytes]] = []
    with _damage(where, unfit), tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in archive:
            if member.isreg():
                members.append((member.name, content[member.offset_data : member.offset_data + member.size]))
        whole = archive.offset == len(content)
    samples = list(samples_of(members, itemgetter(0), where))
    if not whole or len(samples) != 1:
        raise ClipVipError(f"{where}: {unfit}")
    parts = [(name, partial(bytes, held), Path(name)) for name, held in members]
    sample = make_sample(PurePosixPath(samples[0][0]).name, where, "", parts)
    row = _row_of(sample)
    clip = _clip_of(sample, row)
    if row is None:
        media = [(name, held) for name, held in members if Path(name) == sample.media]
    else:
        media = [(name, held) for name, held in members if split_name(name)[1] != "json"]
    if clip is None or not media:
        raise ClipVipError(f"{where}: {unfit}")
    if row is not None and row["media"] == "frames":
        return clip, [held for _, held in media]
    return clip, media[0][1]


def shard_name(path: str) -> str:
    """The name of a tar, less its extensions."""
    return PurePosixPath(path).name.partition(".")[0]


def _row_of(sample: TarSample) -> dict[str, Any] | None:
    """The JSON of a clip of ours; None for that of others."""
    if "json" not in sample.texts:
        return None
    row = parse_meta(sample.texts["json"], f"{sample.where}.json")
    return row if is_row(row) else None


def _clip_of(sample: TarSample, row: dict[str, Any] | None) -> Clip | None:
    """The clip, by our row or as the importer does it; None if it has no media."""
    return from_row(row) if row is not None else next(clips_of([sample], Notes()), None)


@contextmanager
def _damage(where: str, what: str) -> Iterator[None]:
    """Errors of the tar format, named; not those of the disk."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise ClipVipError(f"{where}: {what} ({error})") from error
