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
    report = Report(importer.name, str(out), media_checked=videos is not None)
    run = _Run(importer, sources, report, videos or out.parent)
    notes = Notes()
    wanted = None if ids is None else read_ids(ids)
    clips = iter(importer.read(sources, options, notes))
    if options.transcripts is not None:
        clips = add_subtitles(
            clips, sources, options.transcripts, out, notes, workers=workers, engine=engine, progress=progress
        )
    if wanted is not None:
        clips = run.listed(clips, wanted)
    clips = run.unique(clips)
    clips = (run.cleaned(clip if split is None else replace(clip, split=split)) for clip in clips)
    clips = run.located(clips, check=videos is not None, drop=drop_missing)
    write_manifest(out, run.counted(watch(clips)), videos=videos if relative_to_videos else None)
    return run.finished(notes)


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


class _Run:
    """The steps of one import; each takes clips and gives clips, and counts in `report`."""

    def __init__(self, importer: Importer, sources: Sequence[Path], report: Report, root: Path):
        self.importer = importer
        self.sources = ", ".join(map(str, sources))
        self.report = report
        self.root = root
        self.captions = array("q")

    def listed(self, clips: Iterable[Clip], ids: Collection[str]) -> Iterator[Clip]:
        """Those whose id is in `ids`; what is never seen of these is counted."""
        left = set(ids)
        for clip in clips:
            name = without_extension(clip.clip_id)
            if name in ids:
                left.discard(name)
                yield clip
            else:
                self.report.not_listed += 1
        self.report.listed_not_found = len(left)
        self.report.listed_not_found_examples = sorted(left)[:_SHOWN]

    def unique(self, clips: Iterable[Clip]) -> Iterator[Clip]:
        """The first clip of each id."""
        seen: set[int] = set()
        for clip in clips:
            if not clip.clip_id or "\0" in str(clip.path):
                raise ManifestError(f"{self.sources}: clip {clip.clip_id!r}: its id is empty, or its path no path")
            if (key := hash(clip.clip_id)) in seen:
                self.report.duplicates += 1
                _example(self.report.duplicate_examples, clip.clip_id)
                continue
            seen.add(key)
            yield clip

    def cleaned(self, clip: Clip) -> Clip:
        """The clip with its texts trimmed and the empty ones dropped, along with what is kept of each."""
        captions = [text.strip() for text in clip.captions]
        extra = clip.extra
        if not all(captions):
            kept = [i for i, text in enumerate(captions) if text]
            self.report.empty_texts += len(captions) - len(kept)
            extra = {
                key: [value[i] for i in kept] if key in self.importer.parallel else value
                for key, value in extra.items()
            }
            captions = [captions[i] for i in kept]
        subtitle, caption = self._trimmed(clip.subtitle), self._trimmed(clip.caption)
        return replace(clip, captions=tuple(captions), extra=extra, subtitle=subtitle, caption=caption)

    def _trimmed(self, text: str | None) -> str | None:
        if text is not None and not text.strip():
            self.report.empty_texts += 1
        return (text or "").strip() or None

    def located(self, clips: Iterable[Clip], *, check: bool, drop: bool) -> Iterator[Clip]:
        """Clips with absolute paths: of the files that are there, if they are to be looked for."""
        folder = MediaFolder()
        root = str(self.root)
        for clip in clips:
            extensions = IMAGE_EXTENSIONS if clip.image else VIDEO_EXTENSIONS
            own = Path(clip.path).as_posix()
            path = self.root / clip.path
            if check:
                if clip.path.is_absolute():  # it may just have been unpacked, into a folder that was listed before
                    there = own if os.path.exists(own) else folder.find([own], extensions)
                else:
                    names = (own, *self.importer.spellings(own))
                    there = folder.find((f"{root}/{name}" for name in names), extensions)
                if there is None:
                    self.report.missing += 1
                    _example(self.report.missing_examples, own)
                    if drop:
                        self.report.missing_dropped += 1
                        continue
                else:
                    self.report.found += 1
                    found = Path(there)
                    self.report.found_otherwise += found != path
                    path = found
            yield replace(clip, image=path) if clip.image else replace(clip, video=path)

    def counted(self, clips: Iterable[Clip]) -> Iterator[Clip]:
        """The same clips."""
        report = self.report
        for clip in clips:
            report.clips += 1
            report.captions += len(clip.captions)
            report.subtitles += clip.subtitle is not None
            report.aux_captions += clip.caption is not None
            report.without_text += not (clip.captions or clip.subtitle or clip.caption)
            self.captions.extend(text_key(text) for text in clip.captions)
            yield clip
        if not report.clips:
            raise ManifestError(f"{report.out} was not written: no clip is left ({_why_none(self)})")

    def finished(self, notes: Notes) -> Report:
        """The report, when all clips are through."""
        texts, times = count_repeats(self.captions)
        self.report.repeated_captions = {"texts": texts, "captions": times}
        self.report.notes = notes.counts
        self.report.public_sizes = dict(self.importer.sizes)
        return self.report


def _why_none(run: _Run) -> str:
    report = run.report
    if report.not_listed:
        return f"{report.not_listed} entries, none of them listed by --ids"
    if report.missing_dropped:
        return f"all {report.missing_dropped} media files are missing, such as {report.missing_examples[0]}"
    return f"there are no entries in {run.sources}"


def _example(examples: list[str], name: str) -> None:
    if len(examples) < _SHOWN:
        examples.append(name)
