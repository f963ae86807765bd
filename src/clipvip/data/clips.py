"""Training clips by name: a manifest, or shards here or on an object store."""

from __future__ import annotations

from glob import glob
from pathlib import Path

from clipvip.data.dataset import ClipSource, ManifestClips
from clipvip.data.manifest import read_manifest
from clipvip.data.shards import ShardSet
from clipvip.errors import UsageError


def open_clips(location: str, *, videos: Path | str | None = None, split: str | None = None) -> ClipSource:
    """The clips of a manifest, of a folder or URL of shards, or of tars that others made ("cc12m/*.tar").

    Raises: ManifestError; UsageError if shards were cut from another split than `split`, or `videos` is given for them.
    """
    if "://" not in location and not location.endswith(".tar") and not Path(location).is_dir():
        return ManifestClips(read_manifest(location, videos=videos, split=split))
    shards = (
        ShardSet.from_tars(sorted(glob(location)) or [location]) if location.endswith(".tar") else ShardSet(location)
    )
    if videos is not None:
        raise UsageError(f"{location}: shards hold their media; leave out the folder of videos ({videos})")
    if split is not None and shards.split != split:
        raise UsageError(
            f"{location}: these shards hold {'all splits' if shards.split is None else f'split {shards.split!r}'}, not "
            f"{split!r}; ask for no split, or cut others: clipvip data shard --split {split}"
        )
    return shards
