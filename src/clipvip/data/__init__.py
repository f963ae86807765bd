"""What training reads: manifests, where clips come from, and the way from clips to batches.

`importers` make manifests, `shards` pack them, `tools` check and count them, `synthetic` makes a small world of videos.
Names are imported on first use: a manifest needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_NAMES = {
    "clips": ("open_clips",),
    "dataset": ("Batch", "ClipDataset", "ClipSource", "Collator", "ManifestClips", "Sample", "Sources", "TextBatch"),
    "frame_folders": ("read_frame_folder",),
    "loader": ("Address", "PassSampler", "fetch", "make_loader", "steps_per_pass"),
    "manifest": ("iter_json_lines", "iter_manifest", "read_manifest", "validate_manifest", "write_manifest"),
    "media": ("IMAGE_EXTENSIONS", "LIBRARY_EXTENSIONS", "MEDIA_EXTENSIONS", "VIDEO_EXTENSIONS", "MediaFolder"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

if TYPE_CHECKING:
    from clipvip.data.clips import open_clips
    from clipvip.data.dataset import Batch, ClipDataset, ClipSource, Collator, ManifestClips, Sample, Sources, TextBatch
    from clipvip.data.frame_folders import read_frame_folder
    from clipvip.data.loader import Address, PassSampler, fetch, make_loader, steps_per_pass
    from clipvip.data.manifest import iter_json_lines, iter_manifest, read_manifest, validate_manifest, write_manifest
    from clipvip.data.media import (
        IMAGE_EXTENSIONS,
        LIBRARY_EXTENSIONS,
        MEDIA_EXTENSIONS,
        VIDEO_EXTENSIONS,
        MediaFolder,
    )

__all__ = [
    "IMAGE_EXTENSIONS", "LIBRARY_EXTENSIONS", "MEDIA_EXTENSIONS", "VIDEO_EXTENSIONS", "Address", "Batch",
    "ClipDataset", "ClipSource", "Collator", "ManifestClips", "MediaFolder", "PassSampler", "Sample", "Sources",
    "TextBatch", "fetch", "iter_json_lines", "iter_manifest", "make_loader", "open_clips", "read_frame_folder",
    "read_manifest", "steps_per_pass", "validate_manifest", "write_manifest",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
