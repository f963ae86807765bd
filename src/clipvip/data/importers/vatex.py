"""VATEX: ten English and ten Chinese captions of ten-second clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from clipvip.data.importers.base import Importer, Notes, Options, video_path
from clipvip.data.importers.reading import iter_list
from clipvip.records import Clip


def read_vatex(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """One clip a video: `captions` are the English ones, `chCap` is kept."""
    for source in sources:
        for entry in iter_list(source):
            clip_id = entry.text("videoID")
            yield Clip(
                clip_id,
                video=video_path(clip_id),
                captions=entry.texts("enCap"),
                extra=entry.rest("videoID", "enCap"),
            )


VATEX = Importer(
    "vatex",
    "VATEX: vatex_training_v1.0.json, vatex_validation_v1.0.json; English captions",
    "JSON...",
    read_vatex,
    sizes={"train": 25991, "val": 3000, "public test": 6000},
)
