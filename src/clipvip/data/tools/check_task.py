"""One clip decoded, and what came out."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipvip.data.frame_folders import frame_files, read_frame_folder
from clipvip.errors import ClipVipError
from clipvip.files import file_digest
from clipvip.jobs import Beat, time_limit_s
from clipvip.records import Clip
from clipvip.video import (
    EPSILON_S,
    decode_error,
    frames_within,
    open_video,
    probe,
    read_frames,
    read_image,
    shown_picture,
    shown_s,
    uniform_indices,
)

TIMEOUT_S = 300.0
WORKER_BYTES = 4 << 30
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)

Line = dict[str, Any]


@dataclass(slots=True)
class CheckTask:
    """Decode clips and say what came out: one JSON line a clip.

    num_frames: read that many uniform frames; None: decode every frame. videos, split: what else the result hangs on.
    """

    num_frames: int | None = None
    videos: str | None = None
    split: str | None = None
    silence_s: float = TIMEOUT_S
    memory_bytes: int | None = WORKER_BYTES
    name: str = "check"
    suffix: str = ".jsonl"

    def settings(self) -> dict[str, Any]:
        """What the lines depend on."""
        return {
            "frames": "all" if self.num_frames is None else self.num_frames,
            "videos": self.videos,
            "split": self.split,
            "timeout_s": self.silence_s,
        }

    def name_of(self, item: Clip) -> str:
        """The clip_id."""
        return item.clip_id

    def timeout_s(self, item: Clip) -> float:
        """More for large files: not all of them tell between two clips how far they are."""
        return time_limit_s(item.path, self.silence_s)

    def run(self, items: Sequence[Clip], path: Path, beat: Beat) -> dict[str, Any]:
        """Write the lines of one part; a file that several of its clips are cut from is hashed once."""
        digests: dict[Path, str] = {}
        with path.open("w", encoding="utf-8") as file:
            for clip in items:
                file.write(json.dumps(self._examine(clip, digests, beat)) + "\n")
                beat()
        return {}

    def _examine(self, clip: Clip, digests: dict[Path, str], beat: Beat) -> Line:
        line: Line = {"clip_id": clip.clip_id, "status": "ok", "reason": None}
        line |= {"frames": None, "seconds": None, "digest": None}
        try:
            os.stat(clip.path)
        except ValueError as error:  # half a character, a zero byte: no file is called that
            return line | {"status": "missing", "reason": f"no file can have this name ({error})"}
        except OSError as error:
            status = "missing" if error.errno in _ABSENT else "bad"
            return line | {"status": status, "reason": str(error.strerror).lower()}
        try:
            line["frames"], line["seconds"] = self._decode(clip, beat)
            if clip.path not in digests:
                digests[clip.path] = _digest(clip.path)
        except ClipVipError as error:
            return line | {"status": "bad", "reason": str(error).removeprefix(f"{clip.path}: ")}
        except OSError as error:
            return line | {"status": "bad", "reason": f"cannot be read: {str(error.strerror).lower()}"}
        return line | {"digest": digests[clip.path]}

    def _decode(self, clip: Clip, beat: Beat) -> tuple[int, float | None]:
        """Frames and seconds of a clip; a picture and a folder of frames have no length."""
        if clip.image is not None:
            read_image(clip.image)
            return 1, None
        if clip.path.is_dir():
            return _decode_folder(clip, beat), None
        return _decode_all(clip, beat) if self.num_frames is None else _decode_some(clip, self.num_frames)


def _decode_all(clip: Clip, beat: Beat) -> tuple[int, float]:
    """Frames and seconds of a clip, every frame of it decoded, with a sign of life every hundred.

    Raises: VideoDecodeError, also for damage that leaves frames to be used.
    """
    start_s, end_s = clip.time_range or (0.0, math.inf)
    if end_s - start_s <= EPSILON_S:
        raise decode_error(str(clip.path), f"the range {start_s} to {end_s} s is empty", "correct it or leave it out")
    num_frames, first_s, until_s = 0, 0.0, 0.0
    with open_video(clip.path, threads=1) as video:
        for time_s, frame in frames_within(video, clip.time_range):
            if num_frames == 0:
                first_s = time_s
                shown_picture(video, frame, None)  # decoded is not enough: its pixel format may have no way to RGB
            num_frames, until_s = num_frames + 1, time_s + shown_s(video, frame)
            if num_frames % 100 == 0:
                beat(0)
        if video.damage is not None:
            raise decode_error(video.name, video.damage)
        return num_frames, round(until_s - first_s, 6)


def _decode_folder(clip: Clip, beat: Beat) -> int:
    """How many frames a folder has, all of them decoded, a hundred at a time: so many fit into memory."""
    total = 0

    def choose(counted: int) -> np.ndarray:
        nonlocal total
        total = counted
        return np.arange(start, min(start + 100, counted))

    sizes = set()
    for start in itertools.count(step=100):
        sizes.add(read_frame_folder(clip.path, choose, clip.time_range).shape[1:])
        beat(0)
        if start + 100 >= total:
            break
    if len(sizes) > 1:
        raise decode_error(str(clip.path), "the frame size changes on the way")
    return total


def _digest(path: Path) -> str:
    """Of a file's bytes, or of those of all frames of a folder."""
    if not path.is_dir():
        return file_digest(path, "blake2b")
    return hashlib.blake2b("".join(file_digest(frame, "blake2b") for frame in frame_files(path)).encode()).hexdigest()


def _decode_some(clip: Clip, num_frames: int) -> tuple[int, float]:
    """The same from `num_frames` uniform frames, the file's index and its header."""
    total = 0

    def choose(counted: int) -> np.ndarray:
        nonlocal total
        total = counted  # asked again where the header was wrong: the last answer holds
        return uniform_indices(counted, num_frames)

    read_frames(clip.path, choose, time_range=clip.time_range, strict=True)
    info = probe(clip.path)
    if info.duration_s is None:
        return total, round(total / (info.fps or 25), 6)
    start_s, end_s = clip.time_range or (0.0, math.inf)
    return total, round(max(min(info.duration_s, end_s) - start_s, 0.0), 6)
