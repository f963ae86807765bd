"""What every importer is: a reader of one family of annotation files that yields clips, and what to say about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from clipvip.data.media import VIDEO_EXTENSIONS
from clipvip.errors import ManifestError, UsageError
from clipvip.records import Clip


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may say about a source beyond its files. An option that a format has no use for is an error.

    fields: manifest key -> columns or templates (`tables.Fields`). columns: names of a table without header.
    merge: entries of one clip_id are one clip with several captions. transcripts: folder of subtitle files.
    whole_videos: spans are cut out of whole videos. captions: auxiliary captions. extract: folder to unpack media to.
    """

    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)
    columns: Sequence[str] = ()
    delimiter: str | None = None
    merge: bool = False
    transcripts: Path | None = None
    whole_videos: bool = False
    captions: Path | None = None
    extract: Path | None = None

    def given(self) -> list[str]:
        """The names of the options that are set."""
        return [option.name for option in fields(self) if getattr(self, option.name)]


class Notes:
    """Counted remarks of a reader, in the order of their first appearance."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, remark: str, count: int = 1) -> None:
        """Count `remark` once more."""
        self.counts[remark] = self.counts.get(remark, 0) + count


Read = Callable[[Sequence[Path], Options, Notes], Iterable[Clip]]


def read_each(read_file: Callable[[Path], Iterable[Clip]]) -> Read:
    """A reader of several sources, by one that reads a single file."""
    return lambda sources, options, notes: (clip for source in sources for clip in read_file(source))


@dataclass(frozen=True, slots=True)
class Importer:
    """One format. `read` yields clips whose media paths are relative to the data set's media folder, or absolute.

    about: one line of help. sources: what SOURCE stands for. options: names of `Options` it takes.
    spellings: other relative paths under which a media file is handed around. parallel: extra keys that hold one item
    a caption. sizes: the public sizes, so that a user sees which set this is.
    """

    name: str
    about: str
    sources: str
    read: Read
    options: frozenset[str] = frozenset()
    spellings: Callable[[str], Iterable[str]] = lambda _: ()
    parallel: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)

    def check(self, options: Options) -> None:
        """Raises: UsageError for an option that this format has no use for."""
        for name in options.given():
            if name not in self.options:
                takes = ", ".join(sorted(flag(option) for option in self.options)) or "none"
                raise UsageError(f"{flag(name)} has no use for {self.name} (options of this format: {takes})")


def flag(option: str) -> str:
    """The name of an option on the command line."""
    return "--" + {"fields": "field"}.get(option, option).replace("_", "-")


def video_path(name: str, extension: str = ".mp4") -> Path:
    """`name` as the path of a video: with `extension` unless it has one."""
    return Path(name if name.lower().endswith(VIDEO_EXTENSIONS) else name + extension)


def last_part(path: str) -> Iterable[str]:
    """The other spelling of a path whose file may also lie without its folders."""
    return (path.rpartition("/")[2],) if "/" in path else ()


def merged(clips: Iterable[Clip]) -> Iterator[Clip]:
    """Clips of one id as one, with all captions in order, in the order of first appearance; all are held in memory.

    What else there is comes from the first; extra keys that hold lists are joined.
    Raises: ManifestError for a clip in two splits.
    """
    first: dict[str, Clip] = {}
    captions: dict[str, list[str]] = {}
    for clip in clips:
        kept = first.setdefault(clip.clip_id, clip)
        captions.setdefault(clip.clip_id, []).extend(clip.captions)
        if kept is not clip:
            if kept.split is not None and clip.split is not None and kept.split != clip.split:
                raise ManifestError(
                    f"{clip.clip_id}: is in the splits {kept.split!r} and {clip.split!r}; captions of one would get "
                    "into the other: correct the annotations"
                )
            for key, value in kept.extra.items():
                if isinstance(value, list):
                    value.extend(clip.extra.get(key, ()))
    for clip_id, clip in first.items():
        yield replace(clip, captions=tuple(captions[clip_id]))
