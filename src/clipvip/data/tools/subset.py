"""A part of a manifest that anyone can draw again: which clips are in it hangs on the seed and their ids alone."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from clipvip.data.manifest import iter_manifest, write_manifest
from clipvip.data.tools._repeats import as_numpy
from clipvip.errors import ManifestError, UsageError
from clipvip.records import Clip


def draw(seed: int, clip_id: str) -> int:
    """A number in [0, 2**64) that looks random, the same on every machine."""
    text = f"{seed}/{clip_id}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def write_subset(
    path: Path,
    out: Path,
    *,
    share: float | None = None,
    count: int | None = None,
    seed: int = 0,
    split: str | None = None,
    videos: Path | None = None,
    watch: Callable[[Iterable[Clip]], Iterable[Clip]] = iter,
) -> tuple[int, int]:
    """Write the clips with the lowest draws, in their order: a share of them (about, in one pass) or a count (exactly).

    Subsets of one seed nest: the smaller one is part of the larger. split: draw from this split only. videos: the
    folder that media paths are relative to, before and after.
    Returns: how many clips were written, and of how many. Raises: UsageError, or ManifestError if there are too few.
    """
    if (share is None) == (count is None):
        raise UsageError("give either --share (0.1 is a tenth) or --count")
    if share is not None and not 0 < share <= 1:
        raise UsageError(f"--share {share:g}: must be more than 0 and at most 1")
    if count is not None and count < 1:
        raise UsageError(f"--count {count}: must be at least 1")
    if out.exists() and path.exists() and out.samefile(path):
        raise UsageError(f"--out {out} is the manifest itself; name another file")

    of = f" of split {split!r}" if split else ""
    if share is not None:
        limit = int(share * 2**64)
    else:
        assert count is not None
        draws = array("Q", (draw(seed, clip.clip_id) for clip in iter_manifest(path, split=split)))
        if len(draws) < count:
            raise ManifestError(f"{path}: {len(draws)} clips{of}, fewer than --count {count}")
        limit = int(np.partition(as_numpy(draws), count - 1)[count - 1]) + 1
    seen = 0

    def chosen() -> Iterator[Clip]:
        nonlocal seen
        written = 0
        for clip in watch(iter_manifest(path, videos=videos, split=split)):
            seen += 1
            if draw(seed, clip.clip_id) < limit:
                written += 1
                yield clip
        if not written:
            raise ManifestError(f"{path}: nothing was drawn from {seen} clips{of}; {out} was not written")

    return write_manifest(out, chosen(), videos=videos), seen
