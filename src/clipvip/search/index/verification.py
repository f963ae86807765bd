"""Whether an index is as it was written: its caches, files, rows and thumbnails; and repairs, where these lose nothing.

Shapes: N segments, E embedding size.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from clipvip.errors import SearchIndexError, VideoDecodeError
from clipvip.files import file_digest
from clipvip.jobs import DecodePool
from clipvip.search.index import integrity
from clipvip.search.index._lance import update_ann_index
from clipvip.search.index.integrity import is_remote
from clipvip.search.index.mmap_cache import cache_folder, damaged_caches
from clipvip.search.index.records import Changes, VideoFile, VideoRecord
from clipvip.search.index.scan import is_gone, is_there
from clipvip.search.index.schema import THUMBNAILS, damaged_rows, is_damaged_thumbnail, segment_id_of, vectors_of
from clipvip.search.index.store import SCHEMAS, Store
from clipvip.video import read_frames

UNIT_WITHIN = 1e-3
"""Vectors are of unit norm, up to rounding."""
BEYOND_S = 0.1
"""Segments may end so much later than their video: times are rounded."""
GONE = "no such file any more (clipvip library prune takes it out)"
RESTORE = "restore it from a copy, or make the index again (clipvip library rebuild)"

VerifyProgress = Callable[[str, int, int], None]
"""Called with what is being checked, how much of it is done, and of how much."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be. repaired: what was done about it; "" if that is left to the user."""

    what: str
    repaired: str = ""


@dataclass(slots=True)
class Verification:
    """What a check of an index found; `sound` if nothing is left to do. removed: how many videos a repair took out,
    which come back when their folders are indexed again.
    """

    videos: int = 0
    segments: int = 0
    removed: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return all(problem.repaired for problem in self.problems)


def verify(
    store: Store,
    *,
    repair: bool = True,
    content: bool = False,
    on_progress: VerifyProgress = lambda what, done, total: None,
) -> Verification:
    """As `Library.verify`. Repair: a video that is not sound is taken out, and the next run adds it.

    Raises: SearchIndexError if the segments cannot be read at all.
    """
    return _Check(store, repair, on_progress).run(content)


class _Check:
    def __init__(self, store: Store, repair: bool, on_progress: VerifyProgress):
        self.store, self.repair, self.on_progress = store, repair, on_progress
        self.folder = None if is_remote(store.uri) else Path(store.uri)
        self.found = Verification()
        self.broken = dict[str, str]()  # by video_id: what is wrong
        self.accepted: list[str] = []  # damaged files of which nothing is used any more

    def run(self, content: bool) -> Verification:
        store = self.store
        store.refresh()
        for path in damaged_caches(cache_folder(store.uri), store.settings.embedding_size):
            self.report(f"{path}: damaged", "deleted; the next search makes it again")
            if self.repair:
                path.unlink(missing_ok=True)
        on_progress = partial(self.on_progress, "files of the index")
        damaged = [] if self.folder is None else integrity.damaged_files(self.folder, on_progress)
        self._check_small_tables(damaged)
        self._check_background([file for file in damaged if file.startswith("background.lance/")])
        if copies := store.second_copies():
            self.report(f"{copies} segments, thumbnails or folders that are there twice", "one of each is kept")
            if self.repair:
                store.keep_one_copy()
        thumbnails = self._read_thumbnails()  # before those of videos that are taken out go
        videos, of_video = self._check_segments()
        left = self._check_video_files(videos, content)
        self._check_thumbnails(thumbnails, left, of_video)
        self._check_table_files(damaged)
        if self.folder is not None:
            self._check_record(self.folder)
        if self.repair and any(problem.repaired for problem in self.found.problems):
            store.tidy()
        return self.found

    def report(self, what: str, repaired: str = "") -> None:
        self.found.problems.append(Problem(what, repaired if self.repair else ""))

    def _check_small_tables(self, damaged: Sequence[str]) -> None:
        """What is lost of failures and roots can be found again or given again."""
        store = self.store
        tables = (
            ("failures", store.failures, "emptied; the next run finds the failures again"),
            ("roots", store.roots, "the folders of indexed videos and those that exist are kept; add others again"),
            ("thumbnails", store.thumbnails.search().select(["segment_id"]), "emptied"),
        )
        for name, query, done in tables:
            files = [file for file in damaged if file.startswith(f"{name}.lance/data/")]
            rows = None
            with suppress(SearchIndexError):
                rows = store.read(query)
            if rows is not None and (name == "thumbnails" or not files):
                continue
            self.report(f"the table {name} is damaged", done)
            if self.repair:
                self.accepted += files
                kept = SCHEMAS[name].empty_table()
                if name == "roots":
                    known = {video.root for video in store.videos().values()}
                    names = [] if rows is None else rows["root"].to_pylist()
                    roots = sorted({root for root in names if root in known or Path(root).is_dir()} | known)
                    kept = pa.table({"root": roots}, schema=SCHEMAS[name])
                store.make_again(name, kept)

    def _check_background(self, damaged: Sequence[str]) -> None:
        sound = not any("/_versions/" in file for file in damaged)
        try:
            self.store.background_queries()
        except SearchIndexError:
            sound = False
        if not sound:
            done = "deleted; clipvip's own take their place until you give yours again (--background)"
            self.report("the background queries are damaged", done)
            if self.repair:
                self.store.write(lambda: self.store.database.drop_table("background", ignore_missing=True))
        if sound or self.repair:
            self.accepted += damaged

    def _check_segments(self) -> tuple[dict[str, VideoRecord], dict[str, list[str]]]:
        """The videos, without those that are taken out, and the ids of the segments of each."""
        store = self.store
        table = store.read(store.segments)
        videos = store.videos()
        self.found.videos, self.found.segments = len(videos), len(table)
        of_video: dict[str, list[str]] = defaultdict(list)
        video_ids = table["video_id"].to_pylist()
        for segment_id, video_id in zip(table["segment_id"].to_pylist(), video_ids, strict=True):
            of_video[video_id].append(segment_id)
        broken = self.broken
        norms = np.linalg.norm(vectors_of(table).astype(np.float64), axis=1)
        starts, ends = table["start_s"].to_numpy(), table["end_s"].to_numpy()
        in_time = (starts >= 0) & (ends >= starts) & (ends <= table["duration_s"].to_numpy() + BEYOND_S)
        checks = (
            (damaged_rows(table), "a segment that is not as it was written"),
            (~in_time, "a segment with times outside the video"),
            (~(np.abs(norms - 1) <= UNIT_WITHIN), "a vector that is not of unit norm"),  # also where it is not a number
        )
        for is_broken, what in checks:
            for row in np.flatnonzero(is_broken).tolist():
                broken[video_ids[row]] = what
        paths: dict[Path, str] = {}
        for video_id, video in sorted(videos.items()):
            if video_id not in broken and (what := self._fault_of(video, of_video[video_id], paths)):
                broken[video_id] = what
        self._take_out(videos, broken)
        left = {
            video_id: video for video_id, video in sorted(videos.items()) if not (self.repair and video_id in broken)
        }
        return left, of_video

    def _fault_of(self, video: VideoRecord, segments: list[str], paths: dict[Path, str]) -> str:
        """What is wrong with the rows of a video, or nothing. paths: of the videos before it."""
        if len(set(segments)) < len(segments):
            return "" if not self.repair else "segments that are there twice"  # reported already
        if VideoFile(video.root, video.path).video_id != video.video_id:
            return "an id that is not its own"
        if paths.setdefault(video.absolute, video.video_id) != video.video_id:
            return "the same file under another folder"
        if video.num_windows is not None:
            num_cut = sum(not segment_id.endswith("-given") for segment_id in segments)
            if num_cut < video.num_windows:
                return f"{num_cut} of {video.num_windows} segments"
        elif not self.store.settings.shots:  # read by clipvip 0.1
            # segments of an embedding set have other ids
            expected = {
                segment_id_of(video.video_id, *span) for span in self.store.settings.scales.cut(video.duration_s)
            }
            if set(segments) < expected:
                return f"{len(segments)} of {len(expected)} segments"
        return ""

    def _take_out(self, videos: dict[str, VideoRecord], broken: dict[str, str]) -> None:
        for video_id, what in sorted(broken.items()):
            name = videos[video_id].absolute if video_id in videos else video_id
            self.report(f"{name}: {what}", "taken out; index again")
        if broken and self.repair:
            self.store.apply(Changes(removed=sorted(broken)))
            self.found.removed += len(broken)

    def _check_video_files(self, videos: dict[str, VideoRecord], content: bool) -> list[VideoRecord]:
        broken: dict[str, str] = {}
        for number, (video_id, video) in enumerate(videos.items(), start=1):
            if video_id not in self.broken and is_there(video.root):
                state = _state(video)
                if state is None:
                    gone = is_gone(video.absolute)
                    what = GONE if gone else "cannot be read now; it stays"
                    self.report(f"{video.absolute}: {what}")
                elif state != (video.size_bytes, video.mtime_ns):
                    self.report(f"{video.absolute}: has changed since; index again")
                elif content:
                    try:
                        if file_digest(video.absolute) != video.content_hash:
                            broken[video_id] = "its content is not what was indexed, although size and time are"
                    except OSError as error:
                        self.report(f"{video.absolute}: cannot be read now; it stays ({error.strerror})")
            self.on_progress("video files", number, len(videos))
        self._take_out(videos, broken)
        return [video for video_id, video in videos.items() if video_id not in broken or not self.repair]

    def _read_thumbnails(self) -> tuple[Counter[str], set[str]] | None:
        """How many there are of each segment, and the segments of damaged ones. None if they cannot be read."""
        counts, damaged = Counter[str](), set[str]()
        try:
            for batch in self.store.thumbnails.search().to_batches():
                for row in batch.to_pylist():
                    counts[row["segment_id"]] += 1
                    if is_damaged_thumbnail(row) or (row.get("checksum") is None and not _is_jpeg(row["jpeg"])):
                        damaged.add(row["segment_id"])
        except (RuntimeError, OSError, ValueError):
            return None
        return counts, damaged

    def _check_thumbnails(
        self,
        thumbnails: tuple[Counter[str], set[str]] | None,
        videos: Sequence[VideoRecord],
        of_video: dict[str, list[str]],
    ) -> None:
        """Those without a segment, those that are damaged, and segments without one."""
        ids = {segment_id for video in videos for segment_id in of_video[video.video_id]}
        counts, damaged = thumbnails or (Counter[str](), set[str]())
        if thumbnails is None:  # none of its files can be trusted: all are made again
            self.report("the thumbnails cannot be read", "emptied")
            if self.repair:
                self.store.make_again("thumbnails", THUMBNAILS.empty_table())
        orphans = sorted(counts.keys() - {segment_id for those in of_video.values() for segment_id in those})
        if len(orphans) > len(counts.keys() & ids):
            self.report(
                f"{len(orphans)} thumbnails without a segment, more than others: they stay, because segments may be "
                "missing; if the index is a copy, copy it again, else index the folders again"
            )
        elif orphans:
            if self.repair:
                self.store.replace_thumbnails(orphans, [])
            self.report(f"{len(orphans)} thumbnails without a segment", "deleted")
        wrong = damaged & ids | {segment_id for segment_id in ids if not counts[segment_id]}
        with DecodePool(1) as pool:
            for video in videos:
                if not wrong.isdisjoint(of_video[video.video_id]):
                    self._repair_thumbnails(pool, video, wrong, damaged)

    def _repair_thumbnails(self, pool: DecodePool, video: VideoRecord, wrong: set[str], damaged: set[str]) -> None:
        from clipvip.search.index.encode_files import make_thumbnail  # imports torch

        segments = [segment for segment in self.store.segments_of(video.video_id) if segment.segment_id in wrong]
        what, done = f"{video.absolute}: {len(segments)} segments without a thumbnail, or with a damaged one", ""
        if self.repair:
            ids = [segment.segment_id for segment in segments]
            made = []
            try:
                if _state(video) == (video.size_bytes, video.mtime_ns):
                    for segment in segments:
                        span = segment.start_s, segment.end_s
                        frames = pool.call(partial(read_frames, num_frames=3, time_range=span), video.absolute)
                        jpeg = make_thumbnail(frames[len(frames) // 2], video.width, video.height)
                        made.append((segment.segment_id, jpeg))
                    done = "made again"
            except VideoDecodeError as error:
                what = f"{what} ({error})"
            if made or not damaged.isdisjoint(ids):
                self.store.replace_thumbnails(ids, made)  # a damaged one is worse than none
        self.report(what, done)

    def _check_table_files(self, damaged: Sequence[str]) -> None:
        """Damaged files of segments and thumbnails, after what is in their rows was checked and repaired."""
        store, indices = self.store, list[str]()
        for name in damaged:
            table, folder, *_ = name.split("/")
            path = Path(store.uri, name)
            if table in ("background.lance", "failures.lance", "roots.lance") and folder == "data":
                continue
            if folder == "_indices":
                indices.append(name)
            elif folder == "data" and self._all_checked(table.removesuffix(".lance")):
                self.report(f"{path}: damaged", "what is left of it is sound")
                self.accepted.append(name)
            elif table != "background.lance":
                self.report(f"{path}: damaged; {RESTORE}")
        if indices:
            self.report(f"the approximate index is damaged ({len(indices)} files)", "made again")
            if self.repair:
                self.accepted += indices
                store.write(self._make_ann_again)

    def _make_ann_again(self) -> None:
        for index in self.store.segments.list_indices():
            self.store.segments.drop_index(index.name)
        update_ann_index(self.store.segments)

    def _all_checked(self, name: str) -> bool:
        """Whether each row of a table has a checksum: what does not have the right one was repaired."""
        table = {"segments": self.store.segments, "thumbnails": self.store.thumbnails}[name]
        return self.repair and "checksum" in table.schema.names and not table.count_rows("checksum IS NULL")

    def _check_record(self, folder: Path) -> None:
        has_checksums = "checksum" in self.store.segments.schema.names
        if has_checksums and integrity.read_recorded(folder) is None:
            self.report(f"{folder / integrity.NAME}: missing or damaged", "written again")
            if self.repair:
                self.store.write(lambda: None)
        if self.repair and self.found.problems:
            integrity.forget_files(folder, self.accepted)


def _is_jpeg(jpeg: bytes) -> bool:
    try:
        Image.open(io.BytesIO(jpeg)).load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
    return True


def _state(video: VideoRecord) -> tuple[int, int] | None:
    """Size and time of its file now; None if that cannot be read."""
    try:
        return VideoFile(video.root, video.path).again().state
    except OSError:
        return None
