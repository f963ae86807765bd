"""One import from end to end: read, choose, clean, find the media, count, write."""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from clipvip.data.importers.base import Importer, Notes, Options
from clipvip.data.importers.hdvila import add_subtitles
from clipvip.data.importers.reading import first_character, read_json
from clipvip.data.manifest import write_manifest
from clipvip.data.media import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, MediaFolder, without_extension
from clipvip.data.tools._repeats import count_repeats, text_key
from clipvip.errors import ManifestError
from clipvip.jobs import Engine
from clipvip.records import Clip

_SHOWN = 5
_ID_COLUMNS = ("video_id", "clip_id", "videoid", "videoID", "id")


@dataclass(slots=True)
class Report:
    """What an import did. Counts are of clips in the manifest unless they say otherwise.

    found and missing: media looked for under `--videos`; found_otherwise: of the found ones those under another name
    than the annotations say. duplicates: entries left out because their clip_id was there before. not_listed: entries
    left out because `ids` does not name them. repeated_captions: sentences that stand more than once, and how often
    these stand together.
    """

    format: str
    out: str
    clips: int = 0
    captions: int = 0
    subtitles: int = 0
    aux_captions: int = 0
    without_text: int = 0
    empty_texts: int = 0
    media_checked: bool = False
    found: int = 0
    found_otherwise: int = 0
    missing: int = 0
    missing_dropped: int = 0
    missing_examples: list[str] = field(default_factory=list)
    duplicates: int = 0
    duplicate_examples: list[str] = field(default_factory=list)
    not_listed: int = 0
    listed_not_found: int = 0
    listed_not_found_examples: list[str] = field(default_factory=list)
    repeated_captions: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    public_sizes: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def run_import(
    importer: Importer,
    sources: Sequence[Path],
    out: Path,
    *,
    videos: Path | None = None,
    relative_to_videos: bool = False,
    split: str | None = None,
    ids: Path | None = None,
    drop_missing: bool = False,
    options: Options | None = None,
    watch: Callable[[Iterable[Clip]], Iterable[Clip]] = iter,
    workers: int = 1,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] = lambda count, total: None,
) -> Report:
    """Write the manifest of a data set's own files; no manifest is written if one entry is malformed.

    videos: where the media are; they are looked for, and missing ones counted (and left out with `drop_missing`).
    Without it the paths are the annotations' own, relative to the manifest's folder. relative_to_videos: write paths
    relative to `videos`. split: of all clips (default: what the annotations say). ids: a file that lists the clips to
    take. watch: is handed the clips on their way, to show progress.

    Transcripts are aligned first, by a job in the folder beside `out` with `.parts` at the end of its name; killed and
    called again, it goes on. workers, engine: of that job (see `jobs.run_job`). progress: is told how many videos more
    are aligned, and of how many there are; from several threads.
    Raises: ManifestError naming file, line and field; UsageError for an option the format has no use for.
    """
    options = options or Options()
    importer.check(options)
    for source in sources:
        if not source.exists():
            raise ManifestError(f"{source}: no such file or folder")
    if videos is not None and not videos.is_dir():
        raise ManifestError(f"{videos}: no such folder of media")
    report = Report(importer.name, str(out), media_checked=videos is not None, public_sizes=dict(importer.sizes))
    notes = Notes()
    wanted = None if ids is None else read_ids(ids)
    clips = iter(importer.read(sources, options, notes))
    if options.transcripts is not None:
        clips = add_subtitles(
            clips, sources, options.transcripts, out, notes, workers=workers, engine=engine, progress=progress
        )
    names = ", ".join(map(str, sources))
    chosen = _choose(clips, names, wanted, report)
    chosen = (_clean(clip if split is None else replace(clip, split=split), importer, report) for clip in chosen)
    placed = _locate(chosen, importer, videos or out.parent, report, drop=drop_missing)
    write_manifest(out, _count(watch(placed), names, report), videos=videos if relative_to_videos else None)
    report.notes = notes.counts
    return report


def read_ids(path: Path) -> set[str]:
    """The ids that a file lists: a JSON list, a table with a column of ids, or one a line; media extensions are cut."""
    if first_character(path) == "[":
        ids = read_json(path)
        for i, name in enumerate(ids):
            if not isinstance(name, str):
                raise ManifestError(f"{path}: field '$[{i}]' must be a string, got {name!r:.60}")
    else:
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            raise ManifestError(f"{path}: not UTF-8 text: {error}") from None
        lines = [line for line in lines if line]
        header = next(csv.reader(lines[:1], delimiter=";" if lines and ";" in lines[0] else ","), [])
        column = next((header.index(name) for name in _ID_COLUMNS if name in header), None)
        if column is None:
            ids = lines
        else:
            rows = csv.reader(lines[1:], delimiter=";" if ";" in lines[0] else ",")
            ids = [row[column].strip() for row in rows if len(row) > column]
    if not ids:
        raise ManifestError(f"{path}: no ids")
    return {without_extension(name) for name in ids}


def _choose(clips: Iterable[Clip], sources: str, ids: Collection[str] | None, report: Report) -> Iterator[Clip]:
    """The first clip of each id, of those that `ids` names."""
    left, seen = set(ids or ()), set[int]()
    for clip in clips:
        name = without_extension(clip.clip_id)
        if ids is not None and name not in ids:
            report.not_listed += 1
            continue
        left.discard(name)
        if not clip.clip_id or "\0" in str(clip.path):
            raise ManifestError(f"{sources}: clip {clip.clip_id!r}: its id is empty, or its path no path")
        if (key := hash(clip.clip_id)) in seen:
            report.duplicates += 1
            _example(report.duplicate_examples, clip.clip_id)
            continue
        seen.add(key)
        yield clip
    report.listed_not_found, report.listed_not_found_examples = len(left), sorted(left)[:_SHOWN]


def _clean(clip: Clip, importer: Importer, report: Report) -> Clip:
    """The clip with its texts trimmed and the empty ones dropped, along with what is kept of each."""

    def trim(text: str | None) -> str | None:
        report.empty_texts += text is not None and not text.strip()
        return (text or "").strip() or None

    captions = [trim(text) for text in clip.captions]
    extra = clip.extra
    if not all(captions):
        kept = [i for i, text in enumerate(captions) if text]
        extra = {k: [value[i] for i in kept] if k in importer.parallel else value for k, value in extra.items()}
    return replace(
        clip, captions=tuple(text for text in captions if text), extra=extra, subtitle=trim(clip.subtitle),
        caption=trim(clip.caption),
    )  # fmt: skip


def _locate(clips: Iterable[Clip], importer: Importer, root: Path, report: Report, *, drop: bool) -> Iterator[Clip]:
    """Clips with absolute paths: of the files that are there, if they are to be looked for."""
    folder = MediaFolder()
    for clip in clips:
        extensions = IMAGE_EXTENSIONS if clip.image else VIDEO_EXTENSIONS
        own = Path(clip.path).as_posix()
        path = root / clip.path
        if report.media_checked:
            if clip.path.is_absolute():  # it may just have been unpacked, into a folder that was listed before
                there = own if os.path.exists(own) else folder.find([own], extensions)
            else:
                there = folder.find((f"{root}/{name}" for name in (own, *importer.spellings(own))), extensions)
            if there is not None:
                report.found += 1
                report.found_otherwise += Path(there) != path
                path = Path(there)
            else:
                report.missing += 1
                _example(report.missing_examples, own)
                if drop:
                    report.missing_dropped += 1
                    continue
        yield replace(clip, image=path) if clip.image else replace(clip, video=path)


def _count(clips: Iterable[Clip], sources: str, report: Report) -> Iterator[Clip]:
    """The same clips. Raises: ManifestError if there are none."""
    keys = array("q")
    for clip in clips:
        report.clips += 1
        report.captions += len(clip.captions)
        report.subtitles += clip.subtitle is not None
        report.aux_captions += clip.caption is not None
        report.without_text += not (clip.captions or clip.subtitle or clip.caption)
        keys.extend(text_key(text) for text in clip.captions)
        yield clip
    if not report.clips:
        why = f"there are no entries in {sources}"
        if report.not_listed:
            why = f"{report.not_listed} entries, none of them listed by --ids"
        elif report.missing_dropped:
            why = f"all {report.missing_dropped} media files are missing, such as {report.missing_examples[0]}"
        raise ManifestError(f"{report.out} was not written: no clip is left ({why})")
    texts, times = count_repeats(keys)
    report.repeated_captions = {"texts": texts, "captions": times}


def _example(examples: list[str], name: str) -> None:
    if len(examples) < _SHOWN:
        examples.append(name)
