"""MSR-VTT in the files that it is handed around in.

The annotation json (10,000 videos, 20 sentences each), the csv of text-video pairs (1k-A test), Frozen-in-Time's
MSR_VTT.json (images and annotations), and the list of videos or captions that Hugging Face's copies are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from clipvip.data.importers.base import Importer, Notes, Options, merged, video_path
from clipvip.data.importers.reading import Entry, TableShape, first_character, iter_list, iter_table, read_object
from clipvip.errors import ManifestError
from clipvip.records import Clip

_SPLITS = {"validate": "val"}  # the json's word for it


def read_msrvtt(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """All kinds of files, recognised by their content; a video's captions are together, wherever they are in a file."""
    for source in sources:
        first = first_character(source)
        if first == "[":
            yield from merged(_listed(source))
        elif first != "{":
            yield from merged(_pairs(source))
        elif "annotations" in (whole := read_object(source)).value:
            yield from _images(whole)
        else:
            yield from _annotations(whole)


def _annotations(whole: Entry) -> Iterator[Clip]:
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


def _images(whole: Entry) -> Iterator[Clip]:
    """Frozen-in-Time's file, which has the shape of COCO's: a video is an "image"."""
    captions: dict[str, list[str]] = {image.name("id"): [] for image in whole.entries("images")}
    for annotation in whole.entries("annotations"):
        video_id = annotation.name("image_id")
        if video_id not in captions:
            raise annotation.error("image_id", f"{video_id!r} is not among the images of this file")
        captions[video_id].append(str(annotation.get("caption", str)))
    for image in whole.entries("images"):
        video_id = image.name("id")
        file = image.name("file_name") if "file_name" in image.value else video_id
        yield Clip(
            video_id, video=video_path(file), captions=tuple(captions[video_id]), extra=image.rest("id", "file_name")
        )


def _listed(path: Path) -> Iterator[Clip]:
    """A list of videos with their captions, or of captions with their videos."""
    for entry in iter_list(path):
        video_id = entry.name("video_id")
        key = next((name for name in ("caption", "captions", "sentence") if name in entry.value), "caption")
        texts = entry.get(key, str, list)
        split = entry.name("split") if "split" in entry.value else None
        yield Clip(
            video_id,
            video=video_path(entry.name("video") if "video" in entry.value else video_id),
            captions=(texts,) if isinstance(texts, str) else entry.texts(key),
            split=_SPLITS.get(split, split) if split else None,
            extra=entry.rest("video_id", "sentence", "sen_id"),
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
    "MSR-VTT: MSRVTT_data.json (all; --ids MSRVTT_train.9k.csv for 9k), MSRVTT_JSFUSION_test.csv (1k-A), MSR_VTT.json "
    "(Frozen-in-Time) or Hugging Face's lists",
    "FILE...",
    read_msrvtt,
    sizes={
        "all": 10000, "9k train": 9000, "1k-A test": 1000, "full train": 6513, "full val": 497, "full test": 2990,
        "7k train": 7010,
    },
)  # fmt: skip
