"""The released CLIP-ViP code's own files: retrieval jsonl (videos or folders of frames), pre-training LMDB.

Source: microsoft/XPretrain, CLIP-ViP/src/datasets (dataset_video_retrieval, dataset_pretrain_stage1_all_source).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from clipvip.data.importers.base import Importer, Notes, Options, last_part
from clipvip.data.importers.reading import Entry, iter_list, iter_objects
from clipvip.errors import ClipVipError, ManifestError
from clipvip.records import Clip

Lookup = Callable[[str], str | None]


def read_retrieval(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """One clip a line; with `num_frame` it is a folder of frames `<id>/<id>_000.jpg`, which `video` then names."""
    for source in sources:
        for entry in iter_objects(source):
            clip_id = entry.name("clip_id")
            frames = "num_frame" in entry.value
            if frames:
                entry.number("num_frame")
                notes.add("clips are folders of frames, not video files")
            yield Clip(
                clip_id,
                video=Path(clip_id if frames else f"{clip_id}.mp4"),
                captions=entry.text_or_texts("text"),
                extra=entry.rest("text"),
            )


def read_pretraining(sources: Sequence[Path], options: Options, notes: Notes) -> Iterator[Clip]:
    """Subtitles from an LMDB with `<folder>.jsonl` beside it, or from jsonl with `text`; captions from LMDB or json."""
    with ExitStack() as stack:
        caption = _captions(options.captions, stack) if options.captions else None
        for source in sources:
            subtitle: Lookup | None = None
            listing = source
            if source.is_dir():
                subtitle = stack.enter_context(_lmdb(source))
                listing = source.with_name(source.name + ".jsonl")
                if not listing.is_file():
                    raise ManifestError(f"{listing}: no such file; it lists the clip ids of the LMDB beside it")
            for entry in iter_objects(listing):
                clip_id = entry.name("clip_id" if "clip_id" in entry.value else "video_id")
                text = subtitle(clip_id) if subtitle else _own_text(entry)
                if subtitle and text is None:
                    notes.add(f"clips are listed in {listing.name} but have no subtitle in {source.name}")
                aux = caption(clip_id) if caption else None
                if caption and aux is None:
                    notes.add("clips have no auxiliary caption")
                yield Clip(
                    clip_id,
                    video=Path(clip_id.split(".")[0], clip_id),
                    subtitle=text,
                    caption=aux,
                    extra=entry.rest("text", "video_id"),
                )


def _own_text(entry: Entry) -> str:
    return str(entry.get("text", str))


def _captions(path: Path, stack: ExitStack) -> Lookup:
    if path.is_dir():
        return stack.enter_context(_lmdb(path))
    return {entry.name("image_id"): str(entry.get("caption", str)) for entry in iter_list(path)}.get


@contextmanager
def _lmdb(folder: Path) -> Iterator[Lookup]:
    """A read-only database of texts by clip id."""
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise ClipVipError(f'{folder}: reading LMDB needs one more package: pip install "clipvip[lmdb]"') from error
    try:
        database = lmdb.open(str(folder), readonly=True, create=False, lock=False, readahead=False)
    except lmdb.Error as error:
        raise ManifestError(f"{folder}: no LMDB, or a damaged one ({error})") from None
    with database, database.begin() as transaction:

        def lookup(clip_id: str) -> str | None:
            try:
                value = transaction.get(clip_id.encode())
                return None if value is None else bytes(value).decode()
            except (lmdb.Error, UnicodeDecodeError) as error:
                raise ManifestError(f"{folder}: field {clip_id!r} is no text ({error})") from None

        yield lookup


RELEASED = (
    Importer(
        "clipvip",
        "released CLIP-ViP retrieval jsonl: clip_id, text (and num_frame: folders of frames)",
        "JSONL...",
        read_retrieval,
        spellings=last_part,
        sizes={"MSR-VTT 9k train": 9000, "MSR-VTT 1k-A test": 1000, "LSMDC test": 1000},
    ),
    Importer(
        "clipvip-pretrain",
        "released pre-training data: LMDB of subtitles (beside it <LMDB>.jsonl) or jsonl; --captions LMDB or json",
        "LMDB_FOLDER...",
        read_pretraining,
        options=frozenset(("captions",)),
        spellings=last_part,
    ),
)
