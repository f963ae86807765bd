"""One run of adding files to an index: what is new, what has changed or moved, and when it is written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from clipvip.search.index.scan import EncodedVideo, Found, KnownContent, Skipped, VideoFile, is_gone, is_there
from clipvip.search.index.schema import VideoRecord, rows_of
from clipvip.search.index.store import Store
from clipvip.video import READING_RULES

COMMIT_FILES, COMMIT_S = 64, 30.0
"""An interrupted run loses at most this much; more commits would make more versions to clean up."""

Progress: TypeAlias = Callable[[int, int], None]
Encode: TypeAlias = Callable[[list[VideoFile], Collection[str] | None], Iterator[EncodedVideo | KnownContent | Skipped]]
"""What to do with files; and content hashes that need no encoding (see `ingest.encode_files`)."""


@dataclass(slots=True)
class IndexSummary:
    """What one run did. videos: encoded anew, with their segments and hours. unchanged: also those of which only the
    time was. moved: renamed, so that their vectors were kept. copied: others with the content of an indexed file.
    removed: videos that are in the index no more. missing: those whose files are gone from roots that were looked
    through; `prune` takes them out. damaged: videos that could be read, and are indexed, only in part. excluded:
    video files and folders that ignore rules left out.
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


def add_files(
    store: Store, found: Found, encode: Encode, on_progress: Progress | None = None, *, upgrade: bool = False
) -> IndexSummary:
    """Index those of the files that are new or changed.

    on_progress: called with the number of files done and the number of all. upgrade: also files that are unchanged but
    were read by older rules (see `clipvip.video.READING_RULES`); no vectors of older rules are copied then.
    """
    store.register(found.roots)
    return _Run(store, found, upgrade).work(encode, on_progress or (lambda done, total: None))


class _Run:
    def __init__(self, store: Store, found: Found, upgrade: bool):
        self.store, self.found, self.upgrade = store, found, upgrade
        self.summary = IndexSummary(skipped=list(found.skipped), excluded=len(found.left_out))
        self.indexed = {video.absolute: video for video in store.videos().values()}
        self.by_hash: dict[str, list[VideoRecord]] = {}
        for video in self.indexed.values():
            if not (upgrade and _is_older(video)):
                self.by_hash.setdefault(video.content_hash, []).append(video)
        self.videos: list[EncodedVideo] = []
        self.copies: list[KnownContent] = []
        self.failed: list[Skipped] = list(found.skipped)
        self.damage = self._known_damage()  # by content hash
        self.outdated: list[str] = []
        self.moved: set[str] = set()  # video_ids
        self.written: set[str] = set()  # content hashes, in this run
        self.last_commit = time.monotonic()

    def work(self, encode: Encode, on_progress: Progress) -> IndexSummary:
        """All of it."""
        new = [file for file in self.found.files if not self._is_unchanged(file)]
        self.summary.unchanged = len(self.found.files) - len(new)
        done = self.summary.unchanged
        for outcome in encode(new, self.by_hash.keys()) if new else ():
            self._take(outcome)
            if len(self.videos) == COMMIT_FILES or time.monotonic() - self.last_commit > COMMIT_S:
                self._commit()
            done += 1
            on_progress(done, len(self.found.files))
        self._commit()
        # Copies of a file that could not be read, or of one that another process has just replaced
        for outcome in encode([copy.file for copy in self.copies], None) if self.copies else ():
            self._take(outcome)
        self.copies.clear()
        self._commit()
        self._look_for_missing()
        self.store.tidy()
        return self.summary

    def _known_damage(self) -> dict[str, str]:
        """Of indexed videos, those that are among the failures as they are indexed."""
        return {
            self.indexed[file.absolute].content_hash: reason
            for file, reason in self.store.failed_files()
            if self._is_as_indexed(file)
        }

    def _look_for_missing(self) -> None:
        """Count the videos that are gone, and forget failures of files that are, are left out, or can be read again."""
        roots = {root for root in {*self.found.roots, *(file.root for file in self.found.files)} if is_there(root)}
        videos = [video for video in self.indexed.values() if video.video_id not in self.moved]
        self.summary.missing = sum(video.root in roots and is_gone(video.absolute) for video in videos)
        left_out = self.found.left_out | self.found.no_videos
        unchanged = {file.absolute: file for file in self.found.files if self._is_unchanged(file)}
        solved = []
        for file, _ in self.store.failed_files():
            can_be_read = unchanged.get(file.absolute, file) != file  # and could not when this was noted
            is_left_out = not left_out.isdisjoint((file.absolute, *file.absolute.parents))
            if can_be_read or is_left_out or (file.root in roots and is_gone(file.absolute)):
                solved.append(file)
        self.store.note([], solved)

    def _is_unchanged(self, file: VideoFile) -> bool:
        return self._is_as_indexed(file) and not (self.upgrade and _is_older(self.indexed[file.absolute]))

    def _is_as_indexed(self, file: VideoFile | None) -> bool:
        old = None if file is None else self.indexed.get(file.absolute)
        return old is not None and file is not None and (old.size_bytes, old.mtime_ns) == file.state

    def _take(self, outcome: EncodedVideo | KnownContent | Skipped) -> None:
        """Have it written with the next commit."""
        if isinstance(outcome, EncodedVideo):
            try:
                rows_of([outcome], self.store.settings.embedding_size)
            except (pa.ArrowException, ArithmeticError, ValueError, TypeError) as error:
                outcome = Skipped(outcome.file.absolute, f"its values do not fit into an index ({error})", outcome.file)
        if isinstance(outcome, KnownContent):
            self.copies.append(outcome)
        elif isinstance(outcome, Skipped):
            self.summary.skipped.append(outcome)
            if not (self.upgrade and self._is_as_indexed(outcome.file)):  # its older rows are better than none
                self.failed.append(outcome)
                self._replace(outcome.video)
        else:
            self._replace(outcome.file.absolute)
            self.damage.pop(outcome.content_hash, None)
            if outcome.damage is not None:
                self.damage[outcome.content_hash] = outcome.damage
            self.summary.videos += 1
            self.summary.segments += len(outcome.segments)
            self.summary.hours += outcome.covered_s / 3600
            self.videos.append(outcome)

    def _replace(self, path: Path) -> None:
        """Have what is indexed of this path deleted with the next commit."""
        if path in self.indexed:
            self.outdated.append(self.indexed[path].video_id)

    def _commit(self) -> None:
        self.written |= {video.content_hash for video in self.videos}
        known = self.written | self.by_hash.keys()
        ready = [copy for copy in self.copies if copy.content_hash in known]
        self.copies = [copy for copy in self.copies if copy.content_hash not in known]
        written: list[EncodedVideo | KnownContent] = [*self.videos, *ready]
        damaged = [
            Skipped(video.file.absolute, self.damage[video.content_hash], video.file)
            for video in written
            if video.content_hash in self.damage
        ]
        self.summary.damaged += damaged
        self.store.note(
            [(skipped.file, skipped.reason) for skipped in (*self.failed, *damaged) if skipped.file is not None],
            [video.file for video in written],
        )
        for start in range(0, len(ready) or 1, COMMIT_FILES):
            part = ready[start : start + COMMIT_FILES]
            for copy in part:
                self._replace(copy.file.absolute)
            kinds = [self._kind(copy) for copy in part]
            lost = self.store.replace(self.videos, part, self.outdated)
            for copy, kind in zip(part, kinds, strict=True):
                if copy in lost:
                    self.copies.append(copy)
                else:
                    setattr(self.summary, kind, getattr(self.summary, kind) + 1)
            self.videos.clear()
            self.outdated.clear()
        self.failed.clear()
        self.last_commit = time.monotonic()

    def _kind(self, copy: KnownContent) -> str:
        """What has happened to the file: the name of the summary's count."""
        same = [] if self.upgrade else self.by_hash.get(copy.content_hash, [])
        if any(video.absolute == copy.file.absolute for video in same):
            return "unchanged"
        for video in same:
            if os.path.isdir(video.root) and is_gone(video.absolute):
                same.remove(video)
                self.moved.add(video.video_id)
                self.outdated.append(video.video_id)
                return "moved"
        return "copied"


def _is_older(video: VideoRecord) -> bool:
    """Whether it was read by older rules than those of this clipvip."""
    return video.reading_rules < READING_RULES
