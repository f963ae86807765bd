"""What an index holds, whether it is sound, and what in it is gone from disk."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from clipvip.errors import UsageError, VideoDecodeError
from clipvip.files import same_name
from clipvip.jobs.decoding import DecodePool
from clipvip.search.adding import IndexSummary
from clipvip.search.ignoring import IgnoreRules
from clipvip.search.scan import ABSENT, Found, Skipped, VideoFile, is_gone, is_there
from clipvip.search.store import Store
from clipvip.search.tables import Settings, VideoRecord, segment_id_of
from clipvip.search.thumbnails import make_thumbnail
from clipvip.video import READING_RULES, read_frames

UNIT_WITHIN = 1e-3
"""Vectors are of unit norm, up to rounding."""


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


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be. repaired: what was done about it; "" if that is left to the user."""

    what: str
    repaired: str = ""


@dataclass(slots=True)
class Verification:
    """What a check of an index found; `sound` if nothing is left to do."""

    videos: int = 0
    segments: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether all problems are repaired."""
        return all(problem.repaired for problem in self.problems)


def status(store: Store) -> Status:
    """What the index holds."""
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
    older = [video for video in videos if video.reading_rules < READING_RULES]
    return Status(
        store.uri, len(videos), _segments(videos), _hours(videos), store.num_bytes(), store.settings, roots,
        tuple(sorted(failures, key=lambda failure: (failure.root, failure.path))), len(older), _segments(older),
    )  # fmt: skip


def prune(store: Store, exclude: Sequence[str] = ()) -> IndexSummary:
    """Take out what is no longer on disk, and what the ignore rules of an added folder leave out.

    Videos of a folder that is itself missing or empty stay (its drive may not be mounted): `skipped` names the folder.
    So do files that cannot be read and may be there, and those that were added one by one. exclude: as `find_videos`.
    """
    summary = IndexSummary()
    videos = list(store.videos().values())
    failures = [file for file, _ in store.failed_files()]
    roots = {video.root for video in videos} | {file.root for file in failures}
    absent = sorted(root for root in roots if not is_there(root))
    for root in absent:
        num = sum(video.root == root for video in videos)
        reason = f"the folder is missing or empty, maybe a drive that is not mounted; its {num} videos stay (--forget)"
        summary.skipped.append(Skipped(Path(root), reason))
    rules = {root: IgnoreRules(root, exclude) for root in store.root_names() if root not in absent}

    def goes(file: VideoRecord | VideoFile) -> bool:
        if file.root in absent:
            return False
        return is_gone(file.absolute) or (file.root in rules and rules[file.root].leaves_out(file.path))

    gone = [video for video in videos if goes(video)]
    store.replace([], outdated=[video.video_id for video in gone])
    store.note([], [file for file in failures if goes(file)])
    summary.removed = len(gone)
    summary.skipped += [Skipped(*problem) for of_root in rules.values() for problem in of_root.problems]
    if gone:
        store.tidy()
    return summary


def find_older(store: Store) -> tuple[Found, int]:
    """The files of videos that were read by older rules, and how many of them are gone from folders that are there.

    Segments of embedding sets cannot be made again from the file alone: such videos are among the skipped ones.
    """
    found, num_gone, given = Found(), 0, store.given_videos()
    older = [video for video in store.videos().values() if video.reading_rules < READING_RULES]
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
                found.files.append(VideoFile(video.root, video.path, 0, 0).again())
            except OSError as error:
                found.skipped.append(Skipped(video.absolute, (error.strerror or "unreadable").lower()))
    return found, num_gone


def forget(store: Store, root: str) -> IndexSummary:
    """Take out a folder with all its videos, wherever those are now. Raises: UsageError if it has none."""
    videos = store.videos().values()
    known = {*store.root_names(), *(video.root for video in videos)}
    root = same_name(root, {place.as_posix() for name in sorted(known) for place in (Path(name), *Path(name).parents)})
    within = [video for video in videos if _below(video.root, root)]
    if not within and root not in store.root_names():
        raise UsageError(f"{root}: not a folder of {store.uri}; it has {', '.join(store.root_names()) or 'none'}")
    failures = [file for file, _ in store.failed_files()]
    store.replace([], outdated=[video.video_id for video in within])
    store.note([], [file for file in failures if _below(file.root, root)])
    store.unregister([name for name in store.root_names() if _below(name, root)])
    store.tidy()
    return IndexSummary(removed=len(within))


def verify(store: Store, *, repair: bool = True) -> Verification:
    """Check every row, and mend what can be: a video that is not sound is taken out, and the next run brings it anew.

    Raises: SearchIndexError if a table cannot be read at all.
    """
    store.refresh()
    found = Verification()
    broken: dict[str, str] = {}  # by video_id: what is wrong
    table = store.read(store.segments)
    videos = store.videos()
    found.videos, found.segments = len(videos), len(table)
    ids = table["segment_id"].to_pylist()
    of_video: dict[str, list[str]] = defaultdict(list)
    for segment_id, video_id in zip(ids, table["video_id"].to_pylist(), strict=True):
        of_video[video_id].append(segment_id)

    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, store.settings.embedding_size)
    norms = np.linalg.norm(vectors, axis=1)
    for row in np.flatnonzero(~(np.abs(norms - 1) <= UNIT_WITHIN)).tolist():  # also where it is not a number
        broken[table["video_id"][row].as_py()] = "a vector that is not of unit norm"
    paths: dict[Path, str] = {}
    for video_id, video in sorted(videos.items()):
        segments = of_video[video_id]
        if len(set(segments)) < len(segments):
            broken[video_id] = "segments that are there twice"
        elif VideoFile(video.root, video.path, 0, 0).video_id != video_id:
            broken[video_id] = "an id that is not its own"
        elif paths.setdefault(video.absolute, video_id) != video_id:
            broken[video_id] = "the same file under another folder"
        elif video.num_windows is not None:
            num_cut = sum(not segment_id.endswith("-given") for segment_id in segments)
            if num_cut < video.num_windows:
                broken[video_id] = f"{num_cut} of {video.num_windows} segments"
        elif not store.settings.shots:  # read by clipvip 0.1
            # segments of an embedding set have other ids
            expected = {segment_id_of(video_id, *span) for span in store.settings.scales.cut(video.duration_s)}
            if set(segments) < expected:
                broken[video_id] = f"{len(segments)} of {len(expected)} segments"
    for video_id, what in sorted(broken.items()):
        done = "taken out; index again" if repair else ""
        found.problems.append(Problem(f"{videos[video_id].absolute}: {what}", done))
    if broken and repair:
        store.replace([], outdated=sorted(broken))

    for video_id, video in sorted(videos.items()):
        if video_id not in broken and is_there(video.root):
            state = _state(video)
            if state is None:
                gone = is_gone(video.absolute)
                what = "no such file any more (--prune takes it out)" if gone else "cannot be read now; it stays"
                found.problems.append(Problem(f"{video.absolute}: {what}"))
            elif state != (video.size_bytes, video.mtime_ns):
                found.problems.append(Problem(f"{video.absolute}: has changed since; index again"))
    left = [video for video_id, video in sorted(videos.items()) if not (repair and video_id in broken)]
    found.problems += _check_thumbnails(store, left, of_video, repair)
    if repair and any(problem.repaired for problem in found.problems):
        store.tidy()
    return found


def _check_thumbnails(
    store: Store, videos: Sequence[VideoRecord], of_video: dict[str, list[str]], repair: bool
) -> Iterator[Problem]:
    """Those without a segment, those that are there twice, and segments without one."""
    ids = {segment_id for video in videos for segment_id in of_video[video.video_id]}
    counts = Counter(store.read(store.thumbnails.search().select(["segment_id"]))["segment_id"].to_pylist())
    orphans = sorted(counts.keys() - ids)
    if orphans:
        if repair:
            store.replace_thumbnails(orphans, [])
        yield Problem(f"{len(orphans)} thumbnails without a segment", "deleted" if repair else "")
    wrong = {segment_id for segment_id in ids if counts[segment_id] != 1}
    with DecodePool(1) as pool:
        for video in videos:
            if not wrong.intersection(of_video[video.video_id]):
                continue
            segments = [segment for segment in store.segments_of(video.video_id) if segment.segment_id in wrong]
            what, done = f"{video.absolute}: {len(segments)} segments without a thumbnail, or with several", ""
            if repair and _state(video) == (video.size_bytes, video.mtime_ns):
                made = []
                try:
                    for segment in segments:
                        span = segment.start_s, segment.end_s
                        frames = pool.call(partial(read_frames, num_frames=3, time_range=span), video.absolute)
                        jpeg = make_thumbnail(frames[len(frames) // 2], video.width, video.height)
                        made.append((segment.segment_id, jpeg))
                    store.replace_thumbnails([segment.segment_id for segment in segments], made)
                    done = "made anew"
                except VideoDecodeError as error:
                    what = f"{what} ({error})"
            yield Problem(what, done)


def _state(video: VideoRecord) -> tuple[int, int] | None:
    """Size and time of its file now; None if that cannot be read."""
    try:
        return VideoFile(video.root, video.path, 0, 0).again().state
    except OSError:
        return None


def _below(folder: str, root: str) -> bool:
    return Path(folder).is_relative_to(root)


def _segments(videos: Iterable[VideoRecord]) -> int:
    return sum(video.num_segments for video in videos)


def _hours(videos: Iterable[VideoRecord]) -> float:
    return sum(video.duration_s for video in videos) / 3600
