"""The files of a run as they lie in someone's folder, held against what was published of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipvip.data.manifest import iter_manifest
from clipvip.files import file_digest
from clipvip.reproduce.definition import PublishedFile, PublishedRun
from clipvip.reproduce.steps import Settings


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that is needed, and its size if it is there."""

    published: PublishedFile
    path: Path
    bytes: int | None

    def problem(self, sha256: str | None = None) -> str | None:
        """How it differs from the published one, as far as that is known. sha256: of the file, if it was taken."""
        published = self.published
        if self.bytes is None:
            return f"{published.file}: missing"
        if published.bytes is not None and published.bytes != self.bytes:
            return f"{published.file}: {self.bytes:,} bytes, published with {published.bytes:,}"
        if None not in (sha256, published.sha256) and sha256 != published.sha256:
            return f"{published.file}: SHA-256 {sha256}, published with {published.sha256}"
        return None


def files_of(run: PublishedRun, data: Path, *, with_weights: bool = True) -> list[FoundFile]:
    """All files of a run but the videos. with_weights: the checkpoint to start from as well."""
    wanted = [*run.data.files, *([run.weights] if with_weights else [])]
    paths = [data / published.file for published in wanted]
    return [
        FoundFile(published, path, path.stat().st_size if path.is_file() else None)
        for published, path in zip(wanted, paths, strict=True)
    ]


def missing_files(settings: Settings) -> list[str]:
    """Names of files, and of the folder of videos, that are not there."""
    found = files_of(settings.run, settings.data, with_weights=settings.init is None)
    gone = [file.published.file for file in found if file.bytes is None]
    folder = settings.run.data.videos.folder
    return gone if (settings.data / folder).is_dir() else [*gone, f"{folder}/"]


def take_stock(settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """Sizes and SHA-256 of all files, for the result, and in words what differs from what was published.

    "videos": number, bytes, and SHA-256 of the sorted lines "NAME SIZE" of the files that the manifests name.
    """
    stock: dict[str, Any] = {}
    problems = []
    for found in files_of(settings.run, settings.data, with_weights=settings.init is None):
        sha256 = None if found.bytes is None else file_digest(found.path)
        stock[found.published.file] = {"bytes": found.bytes, "sha256": sha256}
        problem = found.problem(sha256)
        problems += [problem] if problem else []
    sizes = dict(_video_sizes(settings))
    lines = "".join(f"{name} {size}\n" for name, size in sorted(sizes.items()))
    stock["videos"] = {
        "files": len(sizes),
        "bytes": sum(sizes.values()),
        "names_and_sizes_sha256": hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest(),
    }
    return stock, problems


def _video_sizes(settings: Settings) -> Iterator[tuple[str, int]]:
    for split in settings.run.data.splits:
        for clip in iter_manifest(settings.manifest(split)):
            if clip.path.is_file():
                yield clip.path.name, clip.path.stat().st_size
