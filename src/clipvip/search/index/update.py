"""One run of adding files to an index: what is new, what has changed or moved, and when it is written.

`plan_changes` decides what a few files change, without a look at the tables; `Store.apply` does it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from clipvip.search.index.records import (
    Changes,
    EncodedVideo,
    KnownContent,
    Outcome,
    Skipped,
    VideoFile,
    VideoRecord,
    Write,
)
from clipvip.search.index.scan import Found, is_gone, is_there
from clipvip.search.index.schema import rows_of
from clipvip.search.index.store import Store

COMMIT_FILES, COMMIT_S = 64, 30.0
"""An interrupted run loses at most this much; more commits would make more versions to clean up."""

Progress: TypeAlias = Callable[[int, int], None]
Encode: TypeAlias = Callable[[list[VideoFile], Collection[str] | None], Iterator[Outcome]]
"""What to do with files; and content hashes that need no encoding (see `encode_files`)."""


@dataclass(slots=True)
class IndexSummary:
    """What one run did. videos: newly encoded, with their segments and hours. unchanged: also those of which only the
    time changed. moved: renamed, so that their vectors were kept. copied: others with the content of an indexed file.
    removed: videos that are in the index no more. missing: those whose files are gone from folders that were scanned;
    `prune` removes them. damaged: videos that could be read, and are indexed, only in part. excluded: video files and
    folders that ignore rules left out.
    """

    videos: int = 0
    segments: int = 0
    hours: float = 0.0
    unchanged: int = 0
    moved: int = 0
    copied: int = 0
    removed: int = 0
    missing: int = 0
    excluded: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    damaged: list[Skipped] = field(default_factory=list)

    def count(self, write: Write) -> None:
        setattr(self, write.kind, getattr(self, write.kind) + 1)
        if isinstance(write.video, EncodedVideo):
            self.segments += len(write.video.segments)
            self.hours += write.video.covered_s / 3600


@dataclass(slots=True)
class IndexState:
    """What a run knows of an index. videos: as they were when it began. damage: why videos are indexed only in part, by
    content hash. upgrade: files that were read by older rules count as changed. written: content hashes of this run.
    moved: video_ids whose files were found at another place.
    """

    videos: dict[Path, VideoRecord]
    damage: dict[str, str] = field(default_factory=dict)
    upgrade: bool = False
    written: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    by_content: dict[str, list[VideoRecord]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_content = {}
        for video in self.videos.values():
            if not (self.upgrade and video.is_older):  # no vectors of older rules are copied then
                self.by_content.setdefault(video.content_hash, []).append(video)

    @classmethod
    def read(cls, store: Store, upgrade: bool = False) -> IndexState:
        state = cls({video.absolute: video for video in store.videos().values()}, upgrade=upgrade)
        failed = store.failed_files()
        state.damage = {
            state.videos[file.absolute].content_hash: why for file, why in failed if state.is_as_indexed(file)
        }
        return state

    def is_as_indexed(self, file: VideoFile | None) -> bool:
        """Whether a file is indexed with the size and time that it has."""
        video = None if file is None else self.videos.get(file.absolute)
        return video is not None and file is not None and (video.size_bytes, video.mtime_ns) == file.state

    def is_unchanged(self, file: VideoFile) -> bool:
        return self.is_as_indexed(file) and not (self.upgrade and self.videos[file.absolute].is_older)

    def follow(self, changes: Changes) -> None:
        for write in changes.writes:
            if write.kind == "moved":
                self.moved.add(write.replaces[-1])
            if isinstance(write.video, EncodedVideo):
                self.written.add(write.video.content_hash)
                self.damage.pop(write.video.content_hash, None)
                if write.video.damage is not None:
                    self.damage[write.video.content_hash] = write.video.damage


def is_moved_away(video: VideoRecord) -> bool:
    return os.path.isdir(video.root) and is_gone(video.absolute)


def plan_changes(
    state: IndexState, outcomes: Iterable[Outcome], is_gone: Callable[[VideoRecord], bool] = is_moved_away
) -> Changes:
    """What these files change in an index, which is left as it is, and so is `state`.

    A file of known content gets the segments of a video that has it: it is "unchanged" if that was at the same place,
    "moved" if the other file is gone, and "copied" otherwise; it waits if no such video is written yet. Failures of
    files that are written are solved; that a video is damaged is a failure, too.
    """
    outcomes = list(outcomes)
    encoded = [outcome for outcome in outcomes if isinstance(outcome, EncodedVideo)]
    known = [outcome for outcome in outcomes if isinstance(outcome, KnownContent)]
    failed = [
        outcome
        for outcome in outcomes
        if isinstance(outcome, Skipped) and not (state.upgrade and state.is_as_indexed(outcome.file))
    ]  # in an upgrade, older segments of a file are better than none
    writes = [Write(video, _ids_at(state, video.file.absolute)) for video in encoded]
    contents = state.written | {video.content_hash for video in encoded}
    waiting, moved = [], set(state.moved)
    for file in known:
        if file.content_hash not in contents and file.content_hash not in state.by_content:
            waiting.append(file)
            continue
        same = [] if state.upgrade else state.by_content.get(file.content_hash, [])
        same = [video for video in same if video.video_id not in moved]
        ids, kind = _ids_at(state, file.file.absolute), "copied"
        if any(video.absolute == file.file.absolute for video in same):
            kind = "unchanged"
        elif (source := next(filter(is_gone, same), None)) is not None:
            kind, ids = "moved", (*ids, source.video_id)
            moved.add(source.video_id)
        writes.append(Write(file, ids, kind))
    damage = state.damage | {video.content_hash: video.damage for video in encoded}
    return Changes(
        writes,
        removed=[video_id for skipped in failed for video_id in _ids_at(state, skipped.video)],
        failures=[
            *((skipped.file, skipped.reason) for skipped in failed if skipped.file is not None),
            *((each.video.file, why) for each in writes if (why := damage.get(each.video.content_hash)) is not None),
        ],
        solved=[write.video.file for write in writes],
        waiting=waiting,
    )


def add_files(
    store: Store, found: Found, encode: Encode, on_progress: Progress | None = None, *, upgrade: bool = False
) -> IndexSummary:
    """Index those of the files that are new or changed.

    on_progress: called with the number of files done and the number of all. upgrade: also files that are unchanged but
    were read by older rules (see `clipvip.video.READING_RULES`); no vectors of older rules are copied then.
    """
    store.register(found.roots)
    state = IndexState.read(store, upgrade)
    new = [file for file in found.files if not state.is_unchanged(file)]
    num_unchanged = len(found.files) - len(new)
    summary = IndexSummary(unchanged=num_unchanged, skipped=list(found.skipped), excluded=len(found.left_out))
    store.apply(Changes(failures=[(each.file, each.reason) for each in found.skipped if each.file is not None]))

    def report(num_done: int) -> None:
        if on_progress is not None:
            on_progress(num_unchanged + num_done, len(found.files))

    waiting: Sequence[KnownContent] = ()
    outcomes = encode(new, state.by_content.keys()) if new else iter(())
    for batch in _batches(store, outcomes, report):
        waiting = _commit(store, state, summary, [*waiting, *batch])
    if waiting:  # copies of a file that could not be read, or of one that another process has just replaced
        for batch in _batches(store, encode([known.file for known in waiting], None), lambda num_done: None):
            _commit(store, state, summary, batch)
    _forget_solved(store, state, found, summary)
    store.tidy()
    return summary


def _batches(store: Store, outcomes: Iterable[Outcome], report: Callable[[int], None]) -> Iterator[list[Outcome]]:
    batch: list[Outcome] = []
    num_videos, since = 0, time.monotonic()
    for num_done, outcome in enumerate(outcomes, start=1):
        if isinstance(outcome, EncodedVideo):
            try:
                rows_of([outcome], store.settings.embedding_size)
                num_videos += 1
            except (pa.ArrowException, ArithmeticError, ValueError, TypeError) as error:
                why = f"its values do not fit into an index ({error})"
                outcome = Skipped(outcome.file.absolute, why, outcome.file)
        batch.append(outcome)
        if num_videos == COMMIT_FILES or time.monotonic() - since > COMMIT_S:
            yield batch
            batch, num_videos, since = [], 0, time.monotonic()
        report(num_done)
    yield batch


def _commit(store: Store, state: IndexState, summary: IndexSummary, outcomes: Sequence[Outcome]) -> list[KnownContent]:
    """Plan, write and count. Returns: files of known content that wait for it."""
    changes = plan_changes(state, outcomes)
    lost = store.apply(changes)
    state.follow(changes)
    written = [write for write in changes.writes if write.video not in lost]
    for write in written:
        summary.count(write)
    summary.skipped += [outcome for outcome in outcomes if isinstance(outcome, Skipped)]
    summary.damaged += [
        Skipped(write.video.file.absolute, state.damage[write.video.content_hash], write.video.file)
        for write in written
        if write.video.content_hash in state.damage
    ]
    return [*changes.waiting, *lost]


def _forget_solved(store: Store, state: IndexState, found: Found, summary: IndexSummary) -> None:
    """Count the videos that are gone, and forget failures of files that are, are left out, or can be read again."""
    roots = {root for root in {*found.roots, *(file.root for file in found.files)} if is_there(root)}
    videos = [video for video in state.videos.values() if video.video_id not in state.moved]
    summary.missing = sum(video.root in roots and is_gone(video.absolute) for video in videos)
    left_out = found.left_out | found.no_videos
    unchanged = {file.absolute: file for file in found.files if state.is_unchanged(file)}
    solved = []
    for file, _ in store.failed_files():
        can_be_read = unchanged.get(file.absolute, file) != file  # and could not when this was noted
        is_left_out = not left_out.isdisjoint((file.absolute, *file.absolute.parents))
        if can_be_read or is_left_out or (file.root in roots and is_gone(file.absolute)):
            solved.append(file)
    store.apply(Changes(solved=solved))


def _ids_at(state: IndexState, path: Path) -> tuple[str, ...]:
    return (state.videos[path].video_id,) if path in state.videos else ()
