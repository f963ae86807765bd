"""LSMDC: tab-separated, no header; the clips are cut, so the times in the movie are only carried along."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from clipvip.data.importers.base import Importer, Notes, Options, merged
from clipvip.data.importers.reading import Entry, TableShape, iter_table
from clipvip.records import Clip

_TIMES = ("start_aligned", "end_aligned", "start_extracted", "end_extracted")
_SHAPE = TableShape(columns=("clip_id", *_TIMES, "sentence"), delimiter="\t", quoted=False)


def read_lsmdc(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """One clip an id (a few have several lines); file `<movie>/<id>.avi`, movie = the id less its last `_` part."""
    yield from merged(_clip(entry) for source in sources for entry in iter_table(source, _SHAPE))


def _clip(entry: Entry) -> Clip:
    clip_id = entry.text("clip_id")
    movie, mark, _ = clip_id.rpartition("_")
    if not (movie and mark):
        raise entry.error("clip_id", f"has no movie in front of its last '_': {clip_id!r}")
    return Clip(
        clip_id,
        video=Path(movie, f"{clip_id}.avi"),
        captions=(entry.value["sentence"],),
        extra={key: entry.value[key] for key in _TIMES},
    )


def _flat(path: str) -> Iterable[str]:
    return (path.rpartition("/")[2],)


LSMDC = Importer(
    "lsmdc",
    "LSMDC: LSMDC16_annos_training.csv, _val.csv, LSMDC16_challenge_1000_publictect.csv",
    "CSV...",
    read_lsmdc,
    spellings=_flat,
    sizes={"train, as papers have it": 101079, "val": 7408, "test": 1000},
)
