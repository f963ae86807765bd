"""What an index holds, and removing from it what is gone from disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipvip.errors import UsageError
from clipvip.files import same_name
from clipvip.search.index.records import Changes, Skipped, VideoFile, VideoRecord
from clipvip.search.index.scan import ABSENT, Found, IgnoreRules, is_gone, is_there
from clipvip.search.index.schema import Settings
from clipvip.search.index.store import Store
from clipvip.search.index.update import IndexSummary

MOST_MISSING = 0.5
"""A folder of whose videos more than this share is missing may be one whose drive is not mounted."""


@dataclass(frozen=True, slots=True)
class RootStatus:
    """What is indexed of a folder. there: whether the folder is (a drive may not be mounted). added: whether it was
    added as a whole; otherwise single files of it were, or an embedding set's.
    """

    root: str
    videos: int
    segments: int
    hours: float
    there: bool
    added: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be indexed, and why. indexed: it is, as far as it can be read: it is damaged."""

    root: str
    path: str
    reason: str
    indexed: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    """What an index holds. num_bytes: on disk, with the versions that readers may still be at. num_older_videos,
    num_older_segments: of those, how many were read by older rules than this clipvip's (`Library.upgrade`).
    """

    uri: str
    videos: int
    segments: int
    hours: float
    num_bytes: int
    settings: Settings
    roots: tuple[RootStatus, ...]
    failures: tuple[Failure, ...]
    num_older_videos: int = 0
    num_older_segments: int = 0


def status(store: Store) -> Status:
    videos = store.videos().values()
    added = store.root_names()
    by_root: dict[str, list[VideoRecord]] = {root: [] for root in added}
    for video in videos:
        by_root.setdefault(video.root, []).append(video)
    roots = tuple(
        RootStatus(root, len(within), _segments(within), _hours(within), is_there(root), root in added)
        for root, within in sorted(by_root.items())
    )
    states = {(video.absolute, video.size_bytes, video.mtime_ns) for video in videos}
    failures = (
        Failure(file.root, file.path, reason, (file.absolute, *file.state) in states)
        for file, reason in store.failed_files()
    )
    older = [video for video in videos if video.is_older]
    return Status(
        store.uri, len(videos), _segments(videos), _hours(videos), store.num_bytes(), store.settings, roots,
        tuple(sorted(failures, key=lambda failure: (failure.root, failure.path))), len(older), _segments(older),
    )  # fmt: skip


def prune(store: Store, exclude: Sequence[str] = (), *, force: bool = False) -> IndexSummary:
    """As `Library.prune`. Files that cannot be read and may be there stay, and so do those that were added one by one
    and are excluded now.
    """
    summary = IndexSummary()
    videos = list(store.videos().values())
    failures = [file for file, _ in store.failed_files()]
    roots = {video.root for video in videos} | {file.root for file in failures}
    absent = {Path(root) for root in roots if not is_there(root)}
    for root in sorted(absent):
        num = sum(Path(video.root) == root for video in videos)
        reason = f"the folder is missing or empty, maybe a drive that is not mounted; its {num} videos stay"
        summary.skipped.append(Skipped(root, f"{reason} (clipvip library forget takes them out)"))
    missing = {video.absolute for video in videos if Path(video.root) not in absent and is_gone(video.absolute)}
    if not force:
        unmounted = _unmounted([video for video in videos if video.absolute in missing], videos)
        summary.skipped += unmounted
        absent |= {skipped.video for skipped in unmounted}
    rules = {root: IgnoreRules(root, exclude) for root in store.root_names() if is_there(root)}

    def is_outdated(file: VideoRecord | VideoFile) -> bool:
        if not absent.isdisjoint((Path(file.root), *file.absolute.parents)):
            return False
        return is_gone(file.absolute) or (file.root in rules and rules[file.root].leaves_out(file.path))

    outdated = [video for video in videos if is_outdated(video)]
    solved = [file for file in failures if is_outdated(file)]
    store.apply(Changes(removed=[video.video_id for video in outdated], solved=solved))
    summary.removed = len(outdated)
    summary.skipped += [Skipped(*problem) for of_root in rules.values() for problem in of_root.problems]
    if outdated:
        store.tidy()
    return summary


def _unmounted(missing: Sequence[VideoRecord], videos: Sequence[VideoRecord]) -> list[Skipped]:
    """Folders that may be the mount points of drives that are not mounted, and why their videos stay.

    Of their videos more than half are missing (a mount point may hold other files); or the folder is empty, is within
    an added one, and held two or more videos.
    """
    num_videos = Counter(video.root for video in videos)
    num_missing = Counter(video.root for video in missing)
    found = {
        Path(root): f"{num} of its {num_videos[root]} videos are missing"
        for root, num in sorted(num_missing.items())
        if num > MOST_MISSING * num_videos[root]
    }
    empty = Counter[Path]()
    for video in missing:
        if Path(video.root) not in found:
            folder = next(folder for folder in video.absolute.parents if folder.is_dir())
            if folder != Path(video.root) and not is_there(str(folder)):
                empty[folder] += 1
    found |= {
        folder: f"the folder is empty, its {num} videos are missing" for folder, num in sorted(empty.items()) if num > 1
    }
    way_out = "maybe a drive is not mounted; nothing of it is taken out (clipvip library prune --force does)"
    return [Skipped(folder, f"{reason}; {way_out}") for folder, reason in found.items()]


def find_older(store: Store) -> tuple[Found, int]:
    """The files of videos that were read by older rules, and how many of them are gone from folders that are there.

    Segments of embedding sets cannot be made again from the file alone: such videos are among the skipped ones.
    """
    found, num_gone, given = Found(), 0, store.given_videos()
    older = [video for video in store.videos().values() if video.is_older]
    there = {root: is_there(root) for root in sorted({video.root for video in older})}
    found.skipped += [Skipped(Path(root), ABSENT) for root, is_mounted in there.items() if not is_mounted]
    for video in sorted(older, key=lambda video: video.absolute):
        if video.video_id in given:
            reason = "its segments are of an embedding set read by older rules; encode that set again and index it"
            found.skipped.append(Skipped(video.absolute, reason))
        elif there[video.root] and is_gone(video.absolute):
            num_gone += 1
        elif there[video.root]:
            try:
                found.files.append(VideoFile(video.root, video.path).again())
            except OSError as error:
                found.skipped.append(Skipped(video.absolute, (error.strerror or "unreadable").lower()))
    return found, num_gone


def forget(store: Store, root: str) -> IndexSummary:
    """As `Library.forget`."""
    videos = store.videos().values()
    known = {*store.root_names(), *(video.root for video in videos)}
    root = same_name(root, {place.as_posix() for name in sorted(known) for place in (Path(name), *Path(name).parents)})
    within = [video for video in videos if _below(video.root, root)]
    if not within and root not in store.root_names():
        raise UsageError(f"{root}: not a folder of {store.uri}; it has {', '.join(store.root_names()) or 'none'}")
    failures = [file for file, _ in store.failed_files()]
    solved = [file for file in failures if _below(file.root, root)]
    store.apply(Changes(removed=[video.video_id for video in within], solved=solved))
    store.unregister([name for name in store.root_names() if _below(name, root)])
    store.tidy()
    return IndexSummary(removed=len(within))


def _below(folder: str, root: str) -> bool:
    return Path(folder).is_relative_to(root)


def _segments(videos: Iterable[VideoRecord]) -> int:
    return sum(video.num_segments for video in videos)


def _hours(videos: Iterable[VideoRecord]) -> float:
    return sum(video.duration_s for video in videos) / 3600
