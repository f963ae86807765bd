"""DiDeMo: descriptions of moments; a video's descriptions in file order make its paragraph (`join_captions`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from clipvip.data.importers.base import Importer, Notes, Options, merged, video_path
from clipvip.data.importers.reading import Entry, iter_list
from clipvip.data.media import without_extension
from clipvip.records import Clip


def read_didemo(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """One clip a video; `times` keeps, for each caption, the moments the annotators chose, in chunks of 5 s."""
    yield from merged(_clip(entry) for source in sources for entry in iter_list(source))


def _clip(entry: Entry) -> Clip:
    name = entry.text("video")
    times = entry.get("times", list)
    for i, moment in enumerate(times):
        if not (isinstance(moment, list) and len(moment) == 2 and all(type(chunk) is int for chunk in moment)):
            raise entry.error(f"times[{i}]", f"must be two chunk numbers, got {moment!r}")
    extra = {"times": [times], "annotation_ids": [entry.value.get("annotation_id")]}
    extra |= {key: entry.value[key] for key in ("num_segments", "dl_link") if key in entry.value}
    return Clip(
        without_extension(name),
        video=video_path(name),
        captions=(str(entry.get("description", str)),),
        extra=extra,
    )


DIDEMO = Importer(
    "didemo",
    "DiDeMo: train_data.json, val_data.json, test_data.json; captions = the paragraph's sentences",
    "JSON...",
    read_didemo,
    parallel=("times", "annotation_ids"),
    sizes={
        "train": 8395, "val": 1065, "test, as some papers have it": 1003, "test, as most papers have it": 1004,
        "test, as others have it": 1036, "test, as still others have it": 1037,
    },
)  # fmt: skip
