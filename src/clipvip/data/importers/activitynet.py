"""ActivityNet Captions: sentences with timestamps; a video's sentences make its paragraph (`join_captions`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from clipvip.data.importers.base import Importer, Notes, Options, video_path
from clipvip.data.importers.reading import as_entry, read_object
from clipvip.records import Clip


def read_activitynet(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """One clip a video; `timestamps` (one a caption) and `duration` are kept."""
    for source in sources:
        for video_id, value in read_object(source).value.items():
            entry = as_entry(value, str(source), f"$.{video_id}")
            sentences, timestamps = entry.texts("sentences"), entry.get("timestamps", list)
            if len(timestamps) != len(sentences):
                raise entry.error("timestamps", f"has {len(timestamps)} items for {len(sentences)} sentences")
            for i, span in enumerate(timestamps):
                if not (isinstance(span, list) and len(span) == 2 and all(type(s) in (int, float) for s in span)):
                    raise entry.error(f"timestamps[{i}]", f"must be a start and an end in seconds, got {span!r}")
            entry.number("duration")
            yield Clip(video_id, video=video_path(video_id), captions=sentences, extra=entry.rest("sentences"))


def _with_or_without_v(path: str) -> Iterable[str]:
    return (path.removeprefix("v_") if path.startswith("v_") else f"v_{path}",)


ACTIVITYNET = Importer(
    "activitynet",
    "ActivityNet Captions: train.json, val_1.json; captions = the paragraph's sentences",
    "JSON...",
    read_activitynet,
    spellings=_with_or_without_v,
    parallel=("timestamps",),
    sizes={"train": 10009, "val1 (paragraph retrieval)": 4917, "val2": 4885},
)
