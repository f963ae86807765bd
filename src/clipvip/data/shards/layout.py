"""What a folder of shards looks like: its files, and the JSON that stands before a clip's media.

That JSON is the clip's line of the manifest, less its path, plus what was done to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from clipvip.records import Clip

FORMAT, VERSION = "clipvip-shards", 1
FACTS, INDEX, BAD = "shards.json", "index.npy", "bad_clips.jsonl"
Kind = Literal["video", "image", "frames"]
OURS = ("source", "source_range_s", "media", "frame_times_s", "shadowed")
"""Keys that shards add. A manifest's own keys of these names move into "shadowed"."""


def to_row(clip: Clip, *, source: str, media: Kind, cut: bool, frame_times_s: Sequence[float] = ()) -> bytes:
    """The JSON of a clip, ASCII only.

    source: the file it came from, relative to the folder of media. cut: the media is the clip's part of it already
    (the times then stand under source_range_s). frame_times_s: seconds after the first frame, of media "frames".
    """
    row: dict[str, Any] = {"clip_id": clip.clip_id}
    if clip.captions:
        row["captions"] = list(clip.captions)
    kept = ("subtitle", "caption", "split") if cut else ("subtitle", "caption", "start_s", "end_s", "split")
    row |= {key: value for key in kept if (value := getattr(clip, key)) is not None}
    row |= {key: value for key, value in clip.extra.items() if key not in OURS}
    if shadowed := {key: value for key, value in clip.extra.items() if key in OURS}:
        row["shadowed"] = shadowed
    row |= {"source": source, "media": media}
    if cut:
        row["source_range_s"] = [clip.start_s or 0.0, clip.end_s]
    if media == "frames":
        row["frame_times_s"] = list(frame_times_s)
    return json.dumps(row).encode()


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether `to_row` made it (and not a downloader)."""
    return {"clip_id", "source", "media"} <= row.keys()


def from_row(row: Mapping[str, Any]) -> Clip:
    """The clip. Its path says where it came from; `frame_times_s`, if there are any, stand in `extra`."""
    known = ("clip_id", "captions", "subtitle", "caption", "start_s", "end_s", "split")
    extra = {key: value for key, value in row.items() if key not in known and key not in OURS}
    if "frame_times_s" in row:
        extra["frame_times_s"] = row["frame_times_s"]
    return Clip(
        row["clip_id"],
        video=None if row["media"] == "image" else Path(row["source"]),
        image=Path(row["source"]) if row["media"] == "image" else None,
        captions=tuple(row.get("captions", ())),
        subtitle=row.get("subtitle"),
        caption=row.get("caption"),
        start_s=row.get("start_s"),
        end_s=row.get("end_s"),
        split=row.get("split"),
        extra=extra | row.get("shadowed", {}),
    )
