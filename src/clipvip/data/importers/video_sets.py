"""Data sets of captioned videos whose annotation files have a shape of their own: a reader for each."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clipvip.data.importers.base import Importer, Notes, Options, last_part, merged, read_each, video_path
from clipvip.data.importers.reading import (
    Entry,
    TableShape,
    as_entry,
    captions_by_id,
    first_character,
    iter_list,
    iter_table,
    read_object,
)
from clipvip.data.media import without_extension
from clipvip.errors import ManifestError
from clipvip.records import Clip

_SPLITS = {"validate": "val"}  # the word for it in MSR-VTT's json
_LSMDC_TIMES = ("start_aligned", "end_aligned", "start_extracted", "end_extracted")
_LSMDC_TABLE = TableShape(columns=("clip_id", *_LSMDC_TIMES, "sentence"), delimiter="\t", quoted=False)
# what the unpickler raises on files that are damaged, cut off or something else altogether
_UNREADABLE = (
    pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError,
    RecursionError, AssertionError, struct.error,
)  # fmt: skip


def read_msrvtt(path: Path) -> Iterator[Clip]:
    """Files of all kinds, recognised by their content; a video's captions are together, wherever they are in a file.

    The annotation json (10,000 videos, 20 sentences each), the csv of text-video pairs (1k-A test), Frozen-in-Time's
    MSR_VTT.json (images and annotations), and the list of videos or captions that Hugging Face's copies are.
    """
    first = first_character(path)
    if first == "[":
        yield from merged(_msrvtt_listed(entry) for entry in iter_list(path))
    elif first != "{":
        yield from merged(_msrvtt_pair(row, path) for row in iter_table(path, TableShape(), wanted=("video_id",)))
    elif "annotations" in (whole := read_object(path)).value:  # Frozen-in-Time's: a video is an "image"
        captions = captions_by_id(whole, "images", "id", "annotations", "image_id")
        for image in whole.entries("images"):
            video_id = image.name("id")
            video = video_path(image.name("file_name") if "file_name" in image.value else video_id)
            yield Clip(video_id, video=video, captions=captions[video_id], extra=image.rest("id", "file_name"))
    else:
        captions = captions_by_id(whole, "videos", "video_id", "sentences", "video_id")
        for entry in whole.entries("videos"):
            video_id = entry.name("video_id")
            yield Clip(
                video_id, video=video_path(video_id), captions=captions[video_id], split=_msrvtt_split(entry),
                extra=entry.rest("video_id"),
            )  # fmt: skip


def _msrvtt_listed(entry: Entry) -> Clip:
    """A video with its captions, or a caption with its video."""
    video_id = entry.name("video_id")
    key = next((name for name in ("caption", "captions", "sentence") if name in entry.value), "caption")
    return Clip(
        video_id,
        video=video_path(entry.name("video") if "video" in entry.value else video_id),
        captions=entry.text_or_texts(key),
        split=_msrvtt_split(entry),
        extra=entry.rest("video_id", "sentence", "sen_id"),
    )


def _msrvtt_split(entry: Entry) -> str | None:
    split = entry.name("split") if "split" in entry.value else None
    return _SPLITS.get(split, split) if split else None


def _msrvtt_pair(row: Entry, path: Path) -> Clip:
    if "sentence" not in row.value:
        raise ManifestError(
            f"{row.where}: field 'sentence' is missing; a list of ids goes with the json: "
            f"import MSRVTT_data.json with --ids {path.name}"
        )
    video_id, extra = row.name("video_id"), row.rest("video_id", "sentence")
    return Clip(video_id, video=video_path(video_id), captions=(row.text("sentence"),), extra=extra)


def read_didemo(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """One clip per video; `times` keeps, for each caption, the moments the annotators chose, in chunks of 5 s."""
    yield from merged(_didemo_clip(entry) for source in sources for entry in iter_list(source))


def _didemo_clip(entry: Entry) -> Clip:
    name = entry.text("video")
    times = entry.get("times", list)
    for i, moment in enumerate(times):
        if not (isinstance(moment, list) and len(moment) == 2 and all(type(chunk) is int for chunk in moment)):
            raise entry.error(f"times[{i}]", f"must be two chunk numbers, got {moment!r}")
    extra = {"times": [times], "annotation_ids": [entry.value.get("annotation_id")]}
    extra |= {key: entry.value[key] for key in ("num_segments", "dl_link") if key in entry.value}
    captions = (str(entry.get("description", str)),)
    return Clip(without_extension(name), video=video_path(name), captions=captions, extra=extra)


def read_lsmdc(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """One clip per id (a few have several lines); file `<movie>/<id>.avi`, movie = the id less its last `_` part.

    No header. The clips are cut, so the times in the movie are only carried along.
    """
    yield from merged(_lsmdc_clip(entry) for source in sources for entry in iter_table(source, _LSMDC_TABLE))


def _lsmdc_clip(entry: Entry) -> Clip:
    clip_id = entry.text("clip_id")
    movie, mark, _ = clip_id.rpartition("_")
    if not (movie and mark):
        raise entry.error("clip_id", f"has no movie in front of its last '_': {clip_id!r}")
    times = {key: entry.value[key] for key in _LSMDC_TIMES}
    return Clip(clip_id, video=Path(movie, f"{clip_id}.avi"), captions=(entry.value["sentence"],), extra=times)


def read_activitynet(path: Path) -> Iterator[Clip]:
    """One clip per video; `timestamps` (one for each caption) and `duration` are kept."""
    for video_id, value in read_object(path).value.items():
        entry = as_entry(value, str(path), f"$.{video_id}")
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


def read_msvd(path: Path) -> Iterator[Clip]:
    """One clip per id of a pickle (id -> lists of tokens) or json (id -> strings), with all its captions."""
    whole = _unpickle(path) if path.suffix == ".pkl" else read_object(path)
    for clip_id in whole.value:
        captions = whole.get(clip_id, list)
        texts = tuple(_msvd_sentence(whole, f"{clip_id}[{i}]", caption) for i, caption in enumerate(captions))
        yield Clip(clip_id, video=video_path(clip_id, ".avi"), captions=texts)


class _PlainUnpickler(pickle._Unpickler):
    """Makes lists, dictionaries, strings and numbers. A pickle that names anything else is not executed.

    It is the one written in Python: the one in C takes as much memory as a damaged file asks for.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds code ({module}.{name}), which was not executed")


def _unpickle(path: Path) -> Entry:
    try:
        with path.open("rb") as file:
            value = _PlainUnpickler(file, encoding="utf-8").load()
    except _UNREADABLE as error:
        raise ManifestError(f"{path}: not a pickle of plain lists and strings: {error}") from None
    if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
        raise ManifestError(f"{path}: field '$' must have ids (strings) as keys")
    return as_entry(value, str(path))


def _msvd_sentence(whole: Entry, key: str, caption: Any) -> str:
    if isinstance(caption, str):
        return caption
    if isinstance(caption, list) and all(isinstance(token, str) for token in caption):
        return " ".join(caption)
    raise whole.error(key, f"must be a sentence or a list of its words, got {caption!r:.60}")


def read_vatex(path: Path) -> Iterator[Clip]:
    """One clip per video: `captions` are the ten English ones, `chCap` (ten Chinese ones) is kept."""
    for entry in iter_list(path):
        clip_id, extra = entry.text("videoID"), entry.rest("videoID", "enCap")
        yield Clip(clip_id, video=video_path(clip_id), captions=entry.texts("enCap"), extra=extra)


VIDEO_SETS = (
    Importer(
        "msrvtt",
        "MSR-VTT: MSRVTT_data.json (all; --ids MSRVTT_train.9k.csv for 9k), MSRVTT_JSFUSION_test.csv (1k-A), "
        "MSR_VTT.json (Frozen-in-Time) or Hugging Face's lists",
        "FILE...",
        read_each(read_msrvtt),
        sizes={
            "all": 10000, "9k train": 9000, "1k-A test": 1000, "full train": 6513, "full val": 497, "full test": 2990,
            "7k train": 7010,
        },
    ),
    Importer(
        "didemo",
        "DiDeMo: train_data.json, val_data.json, test_data.json; captions = the paragraph's sentences",
        "JSON...",
        read_didemo,
        parallel=("times", "annotation_ids"),
        sizes={
            "train": 8395, "val": 1065, "test, as some papers have it": 1003, "test, as most papers have it": 1004,
            "test, as others have it": 1036, "test, as still others have it": 1037,
        },
    ),
    Importer(
        "lsmdc",
        "LSMDC: LSMDC16_annos_training.csv, _val.csv, LSMDC16_challenge_1000_publictect.csv",
        "CSV...",
        read_lsmdc,
        spellings=last_part,
        sizes={"train, as papers have it": 101079, "val": 7408, "test": 1000},
    ),
    Importer(
        "activitynet",
        "ActivityNet Captions: train.json, val_1.json; captions = the paragraph's sentences",
        "JSON...",
        read_each(read_activitynet),
        spellings=_with_or_without_v,
        parallel=("timestamps",),
        sizes={"train": 10009, "val1 (paragraph retrieval)": 4917, "val2": 4885},
    ),
    Importer(
        "msvd",
        "MSVD: raw-captions.pkl (nothing in it is executed) or captions_msvd.json, with --ids train_list.txt",
        "FILE...",
        read_each(read_msvd),
        sizes={"all": 1970, "train": 1200, "val": 100, "test": 670},
    ),
    Importer(
        "vatex",
        "VATEX: vatex_training_v1.0.json, vatex_validation_v1.0.json; English captions",
        "JSON...",
        read_each(read_vatex),
        sizes={"train": 25991, "val": 3000, "public test": 6000},
    ),
)  # fmt: skip
