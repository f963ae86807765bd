"""Damage to the files of an index, as disks, copies and crashes cause it, and whether anything reports it."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.errors import ClipVipError
from clipvip.search import Library, Query, Term
from helpers_video import write_videos

KINDS = ("bit", "zeros", "cut", "deleted", "exchanged")
NUM_QUERIES = 12


@dataclass(frozen=True)
class Trial:
    """outcome: "right", "error" (on use) or "verify" (only a check reports it); anything else is a failure."""

    file: str
    kind: str
    outcome: str


def write_index(folder: Path, encoder: Any) -> Path:
    """An index of two runs, with failures, background queries and all caches, that was searched."""
    videos = write_videos(folder / "videos", *(20 + 2 * i for i in range(8)))
    (videos / "bad.mp4").write_text("no video")
    library = Library(folder / "index", encoder, windows_s=(2.0, 1.0))
    library.add(videos)
    (videos / "0.mp4").unlink()
    library.prune()  # so that there are deleted rows
    library.set_background([f"text {number}" for number in range(20)])
    answers(library)
    return folder / "index"


def answers(library: Library) -> list[Any]:
    """What a user sees: hits with their thumbnails, p-values, timelines, and the lists of files."""
    size = library.settings.embedding_size
    seen: list[Any] = []
    for vector in np.random.default_rng(0).standard_normal((NUM_QUERIES, size)).astype(np.float32):
        found = library.search(Query(terms=(Term(vector=vector / np.linalg.norm(vector)),), k=20, merge=False))
        seen += [(hit.segment_id, str(hit.video), hit.start_s, hit.end_s, round(hit.score, 5)) for hit in found]
    for text in ("a red circle", "text 3"):
        results = library.search(text, false_alarm=0.5)
        seen += [results.p_value, [(hit.segment_id, round(hit.score, 5)) for hit in results]]
    seen += [(segment.segment_id, round(score, 5)) for segment, score in library.timeline(seen[0][0][:16], "a dog")]
    status = library.status()
    return [*seen, status.videos, status.segments, status.roots, status.failures]


def corrupt(index: Path, rng: random.Random, kind: str) -> str:
    """Damage a random file; its name."""
    files = sorted(path for path in index.rglob("*") if path.is_file() and path.stat().st_size)
    path = rng.choice(files)
    content = bytearray(path.read_bytes())
    if kind == "bit":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "zeros":
        start = rng.randrange(len(content))
        block = slice(start, start + rng.choice((16, 512, 4096)))
        content[block] = bytes(len(content[block]))
    elif kind == "cut":
        del content[rng.randrange(len(content)) :]
    elif kind == "exchanged":
        other = rng.choice([file for file in files if file.suffix == path.suffix and file != path] or files)
        path.write_bytes(other.read_bytes())
        path, content = other, content
    if kind == "deleted":
        path.unlink()
    else:
        path.write_bytes(content)
    return path.relative_to(index).as_posix()


def run_trials(source: Path, work: Path, encoder: Any, *, num_trials: int, seed: int) -> list[Trial]:
    """Each on a copy of the index `source`."""
    expected, trials = answers(Library(source, encoder)), []
    for number in range(num_trials):
        rng, kind = random.Random(f"{seed} {number}"), KINDS[number % len(KINDS)]
        index = work / f"trial{number}"
        shutil.copytree(source, index)
        file = corrupt(index, rng, kind)
        if rng.random() < 0.5:
            shutil.rmtree(index / "search-cache")  # as if another process had committed: the tables are read
        trials.append(Trial(file, kind, outcome_of(index, encoder, expected)))
        shutil.rmtree(index)
    return trials


def outcome_of(index: Path, encoder: Any, expected: list[Any]) -> str:
    try:
        found = answers(Library(index, encoder))
    except ClipVipError:
        return "error"
    except BaseException as error:  # noqa: BLE001 - LanceDB's panics are no Exceptions
        return f"{type(error).__name__}: {error}"
    if found == expected:
        return "right"
    try:
        problems = Library(index, encoder).verify(repair=False).problems
    except ClipVipError:
        return "verify"
    return "verify" if problems else "silently wrong"


def assert_none_is_silent(trials: list[Trial]) -> None:
    """Shows how all ended if one does."""
    outcomes = Counter((trial.kind, trial.outcome) for trial in trials)
    assert [trial for trial in trials if trial.outcome not in ("right", "error", "verify")] == [], outcomes
