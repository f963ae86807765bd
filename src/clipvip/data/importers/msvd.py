"""MSVD: raw-captions.pkl (id -> lists of tokens) or json (id -> strings); the splits are lists of ids (`--ids`)."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clipvip.data.importers.base import Importer, Notes, Options, video_path
from clipvip.data.importers.reading import Entry, as_entry, read_object
from clipvip.errors import ManifestError
from clipvip.records import Clip

# what the unpickler raises on files that are damaged, cut off or something else altogether
_UNREADABLE = (
    pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError,
    RecursionError, AssertionError, struct.error,
)  # fmt: skip


class _PlainUnpickler(pickle._Unpickler):
    """Makes lists, dictionaries, strings and numbers. A pickle that names anything else is not executed.

    It is the one written in Python: the one in C takes as much memory as a damaged file asks for.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds code ({module}.{name}), which was not executed")


def read_msvd(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """One clip an id, with all its captions."""
    for source in sources:
        whole = _unpickled(source) if source.suffix == ".pkl" else read_object(source)
        for clip_id in whole.value:
            captions = whole.get(clip_id, list)
            texts = [_sentence(whole, f"{clip_id}[{i}]", caption) for i, caption in enumerate(captions)]
            yield Clip(clip_id, video=video_path(clip_id, ".avi"), captions=tuple(texts))


def _unpickled(path: Path) -> Entry:
    try:
        with path.open("rb") as file:
            value = _PlainUnpickler(file, encoding="utf-8").load()
    except _UNREADABLE as error:
        raise ManifestError(f"{path}: not a pickle of plain lists and strings: {error}") from None
    if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
        raise ManifestError(f"{path}: field '$' must have ids (strings) as keys")
    return as_entry(value, str(path))


def _sentence(whole: Entry, key: str, caption: Any) -> str:
    if isinstance(caption, str):
        return caption
    if isinstance(caption, list) and all(isinstance(token, str) for token in caption):
        return " ".join(caption)
    raise whole.error(key, f"must be a sentence or a list of its words, got {caption!r:.60}")


MSVD = Importer(
    "msvd",
    "MSVD: raw-captions.pkl (nothing in it is executed) or captions_msvd.json, with --ids train_list.txt",
    "FILE...",
    read_msvd,
    sizes={"all": 1970, "train": 1200, "val": 100, "test": 670},
)
