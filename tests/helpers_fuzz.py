"""What reliability is tested with: damaged copies of media files, clips that take a process down, and kills.

A damaged copy is a pure function of its number (and of the encoders here), so that a finding can be made again.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from clipvip.data.tools import CheckTask
from clipvip.errors import VideoDecodeError
from clipvip.jobs import Beat, Worker, WorkerDied
from clipvip.records import Clip
from clipvip.video import read_frames
from helpers_jobs import do
from helpers_video import write_video

SOURCES: dict[str, dict[str, Any]] = {
    "h264.mp4": {"bf": "2", "g": "6"},
    "faststart.mp4": {"bf": "2", "g": "6", "faststart": True},
    "hevc.mp4": {"codec": "libx265", "g": "6", "x265-params": "log-level=none"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "6"},
    "h264.mkv": {"bf": "2", "g": "6"},
    "mpeg4.avi": {"codec": "mpeg4", "g": "6"},
    "h264.ts": {"bf": "2", "g": "6"},
    "moving.gif": {"codec": "gif", "pix_fmt": "rgb8"},
}
NUM_FRAMES = 24
TIMEOUT_S = 10.0
MEMORY_BYTES = 4 << 30

Damage = Callable[[bytes, bytes, np.random.Generator], bytes]


def write_sources(folder: Path) -> list[Path]:
    """A small valid file of each kind that there is an encoder for."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write_video(folder / name, NUM_FRAMES, **options)
        for name, options in SOURCES.items()
        if options.get("codec", "libx264") in av.codecs_available
    ]


def damaged_copy(number: int, sources: Sequence[Path], folder: Path) -> Path:
    """The copy of this number: sources and damages take turns, the rest is drawn."""
    rng = np.random.default_rng(number)
    turn, place = divmod(number, len(sources))
    source, damage = sources[place], DAMAGES[turn % len(DAMAGES)]
    whole = damaged = source.read_bytes()
    while damaged == whole:  # the same header on it, a hole of no length
        damaged = damage(whole, sources[int(rng.integers(len(sources)))].read_bytes(), rng)
    path = folder / f"{number:04d}_{damage.__name__}_{source.name}"
    path.write_bytes(damaged)
    return path


def cut_off(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """An unfinished copy."""
    return data[: int(rng.integers(len(data)))]


def flipped_bits(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Bursts of random bits, every second copy only in its first or last kilobyte, where headers and indices are."""
    damaged = bytearray(data)
    near_ends = bool(rng.integers(2))
    for _ in range(int(rng.integers(1, 9))):
        length = int(rng.integers(1, 65))
        start = int(rng.integers(1024 if near_ends else len(data))) % len(data)
        if near_ends and rng.integers(2):
            start = len(data) - 1 - start
        burst = rng.integers(0, 256, length, dtype=np.uint8)
        for offset, bits in enumerate(burst.tolist()):
            if start + offset < len(damaged):
                damaged[start + offset] ^= bits
    return bytes(damaged)


def zeroed(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A hole, as in a file that was downloaded in pieces."""
    start, end = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    return data[:start] + bytes(end - start) + data[end:]


def swapped_within(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Two blocks that changed places."""
    length = int(rng.integers(1, max(2, len(data) // 4)))
    first = int(rng.integers(0, len(data) // 2 - length + 1))
    second = int(rng.integers(len(data) // 2, len(data) - length + 1))
    one, two = data[first : first + length], data[second : second + length]
    return data[:first] + two + data[first + length : second] + one + data[second + length :]


def foreign_header(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """The beginning of another file on the rest of this one."""
    length = int(rng.integers(4, 2048))
    return other[:length] + data[length:]


def foreign_block(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A piece of another file in the middle of this one."""
    start = int(rng.integers(len(data)))
    length = int(rng.integers(1, 4096))
    piece = int(rng.integers(max(1, len(other) - length)))
    return data[:start] + other[piece : piece + length] + data[start + length :]


DAMAGES: tuple[Damage, ...] = (cut_off, flipped_bits, zeroed, swapped_within, foreign_header, foreign_block)


def read_damaged_copies(numbers: Iterable[int], folder: Path) -> tuple[Counter[str], list[str]]:
    """Read copies in one supervised process: how often there were frames and errors, and everything else that happened.

    What is found is one line each, with the name of the copy, which stays in `folder`; the other copies do not.
    """
    sources = write_sources(folder / "sources")
    seen: Counter[str] = Counter()
    found: list[str] = []
    with Worker(memory_bytes=MEMORY_BYTES) as worker:
        for source in sources:  # also loads what is loaded once, before files are counted
            assert len(worker.call(read_frames, source, timeout_s=TIMEOUT_S)) == 12
        before = worker.call(count_open_files, timeout_s=TIMEOUT_S)
        for number in numbers:
            path = damaged_copy(number, sources, folder)
            try:
                frames = worker.call(read_frames, path, timeout_s=TIMEOUT_S)
                seen["frames"] += 1
                if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
                    found.append(f"{path.name}: frames {frames.dtype} {frames.shape}")
                    continue
            except VideoDecodeError as error:
                seen["errors"] += 1
                if not str(error).startswith(f"{path}: ") or "\n" in str(error):
                    found.append(f"{path.name}: not one line that names the file: {error!r}")
                    continue
            except WorkerDied as error:
                found.append(f"{path.name}: the process {error}")
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
                found.append(f"{path.name}: {error!r}")
                continue
            path.unlink()
        after = worker.call(count_open_files, timeout_s=TIMEOUT_S)
    if after != before:
        found.append(f"{after} open files after {sum(seen.values())} copies, {before} before")
    return seen, found


def count_open_files() -> int:
    """File handles of this process; 0 where nobody can tell."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def open_and_forget(path: Path) -> int:
    """A leak of one file handle."""
    return os.open(path, os.O_RDONLY)


@dataclass
class FragileCheck(CheckTask):
    """A check in which the files crash, hang and hog (see `helpers_jobs.do`) are what they are called."""

    memory_bytes: int | None = 2 << 30

    def _decode(self, clip: Clip, beat: Beat) -> tuple[int, float | None]:
        do(clip.path.stem)
        return super()._decode(clip, beat)


def write_flawed_set(folder: Path, num_clips: int) -> Path:
    """A manifest of good, bad, short, duplicated and missing clips; long enough to be killed in."""
    folder.mkdir(parents=True, exist_ok=True)
    long = [write_video(folder / f"long{i}.mp4", 120, faststart=True, first_pts=i) for i in range(4)]
    whole = long[0].read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "copy.mp4").write_bytes(whole)
    write_video(folder / "short.mp4", 5)
    rows: list[dict[str, Any]] = []
    for i in range(num_clips):
        if i % 10 == 3:
            video = ("cut.mp4", "copy.mp4", "short.mp4", "nowhere.mp4")[i // 10 % 4]
            rows.append({"clip_id": f"clip{i}", "video": video})
        else:
            rows.append({"clip_id": f"clip{i}", "video": long[i % 4].name, "start_s": i / 100, "captions": [f"{i}"]})
    manifest = folder / "set.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def reports_despite_kills(manifest: Path, folder: Path, *, num_kills: int, seed: int) -> Iterator[bytes]:
    """The reports of checks that were killed at random moments and begun again until a run came to its end.

    The first is of a check that nobody killed. Also checked: a receipt that a killed run left is never written again.
    """
    rng = random.Random(seed)
    longest_s: float | None = None
    for number in itertools.count():
        work = folder / f"work{number}"
        command = [sys.executable, "-m", "clipvip", "data", "check", str(manifest), "--work", str(work), "--json"]
        kept: dict[str, int] = {}
        ended, started = False, time.monotonic()
        while not ended:
            ended = _runs_through(command, rng, longest_s)
            num_kills -= not ended
            before, kept = kept, _receipts(work)
            assert before.items() <= kept.items()
        longest_s = longest_s or time.monotonic() - started
        yield (work / "report.json").read_bytes()
        if num_kills <= 0:
            return


def _runs_through(command: list[str], rng: random.Random, longest_s: float | None) -> bool:
    """Run it, and kill it, alone or with its workers, at a random moment up to `longest_s`; whether it ended before."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        _, errors = process.communicate(timeout=None if longest_s is None else rng.uniform(0, longest_s))
    except subprocess.TimeoutExpired:
        if rng.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()  # ends when the last worker has gone: none may outlive its parent
        return False
    assert process.returncode == 0, errors.decode()
    return True


def _receipts(work: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (work / "receipts").glob("*.json")}
