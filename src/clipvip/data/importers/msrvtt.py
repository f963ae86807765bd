"""MSR-VTT: the annotation json (all 10,000 videos x 20 sentences) and the csv of text-video pairs (1k-A test)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from clipvip.data.importers.base import Importer, Notes, Options, video_path
from clipvip.data.importers.reading import TableShape, first_character, iter_table, read_object
from clipvip.errors import ManifestError
from clipvip.records import Clip

_SPLITS = {"validate": "val"}  # the json's word for it


def read_msrvtt(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """Both kinds of files, told apart by content."""
    for source in sources:
        yield from _annotations(source) if first_character(source) == "{" else _pairs(source)


def _annotations(path: Path) -> Iterator[Clip]:
    whole = read_object(path)
    captions: dict[str, list[str]] = {video.name("video_id"): [] for video in whole.entries("videos")}
    for sentence in whole.entries("sentences"):
        video_id = sentence.name("video_id")
        if video_id not in captions:
            raise sentence.error("video_id", f"{video_id!r} is not among the videos of this file")
        captions[video_id].append(str(sentence.get("caption", str)))
    for video in whole.entries("videos"):
        video_id = video.name("video_id")
        split = video.name("split") if "split" in video.value else None
        yield Clip(
            video_id,
            video=video_path(video_id),
            captions=tuple(captions[video_id]),
            split=_SPLITS.get(split, split) if split else None,
            extra=video.rest("video_id"),
        )


def _pairs(path: Path) -> Iterator[Clip]:
    for row in iter_table(path, TableShape(), wanted=("video_id",)):
        if "sentence" not in row.value:
            raise ManifestError(
                f"{row.where}: field 'sentence' is missing; a list of ids goes with the json: "
                f"import MSRVTT_data.json with --ids {path.name}"
            )
        video_id = row.name("video_id")
        yield Clip(
            video_id,
            video=video_path(video_id),
            captions=(row.text("sentence"),),
            extra=row.rest("video_id", "sentence"),
        )


MSRVTT = Importer(
    "msrvtt",
    "MSR-VTT: MSRVTT_data.json (all; --ids MSRVTT_train.9k.csv for 9k), or MSRVTT_JSFUSION_test.csv (1k-A)",
    "FILE...",
    read_msrvtt,
    sizes={
        "all": 10000, "9k train": 9000, "1k-A test": 1000, "full train": 6513, "full val": 497, "full test": 2990,
        "7k train": 7010,
    },
)  # fmt: skip
