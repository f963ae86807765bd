"""Middle frames to captions: one part of the job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipvip.captioning.captioner import Answer, Captioner, CaptionerSettings, Described, Undescribed
from clipvip.captioning.text import clean_caption
from clipvip.data import read_frame_folder
from clipvip.errors import InputError, VideoDecodeError
from clipvip.jobs import Beat, prefetch, time_limit_s, usable_cpus
from clipvip.records import Clip
from clipvip.video import middle_index, read_frames, read_image

_SIGN_S = 5.0
_DECODERS = 8  # threads at most


Line = dict[str, str]
"""clip_id, caption, revision."""


class Asked(NamedTuple):
    """A clip, and its line if an earlier attempt at its part got one: captions cost time and money."""

    clip: Clip
    line: Line | None = None


@dataclass(slots=True)
class CaptionTask:
    """Caption clips: a JSON line for each that got one.

    videos, split, overwrite: what else the lines hang on.
    """

    captioner: CaptionerSettings
    videos: str
    split: str | None = None
    overwrite: bool = False
    memory_bytes: int | None = None
    name: str = "captions"
    suffix: str = ".jsonl"

    def settings(self) -> dict[str, Any]:
        """The captioner, and which clips it is to describe."""
        return {
            **self.captioner.settings(),
            "videos": self.videos,
            "split": self.split,
            "overwrite": self.overwrite,
        }

    def name_of(self, item: Asked) -> str:
        """The clip_id."""
        return item.clip.clip_id

    def timeout_s(self, item: Asked) -> float:
        """What its file and the captioner may take."""
        return time_limit_s(item.clip.path, self.captioner.silence_s)

    def run(self, items: Sequence[Asked], path: Path, beat: Beat) -> dict[str, Any]:
        """Write the lines of one part; clips that cannot be decoded or described are failures."""
        lines = {clip.clip_id: line for clip, line in items if line is not None}
        reasons: dict[str, str] = {}  # of failures
        beat(len(lines))
        for clip_id, answer in self._answers([clip for clip, line in items if line is None], beat):
            if not isinstance(answer, Described):
                reasons[clip_id] = answer.reason
            elif caption := clean_caption(answer.text, self.captioner.max_words):
                lines[clip_id] = {"clip_id": clip_id, "caption": caption, "revision": answer.revision}
            else:
                reasons[clip_id] = f"the captioner said nothing of use: {answer.text[:80]!r}"
            beat()
        names = [clip.clip_id for clip, _ in items]
        path.write_text("".join(json.dumps(lines[name]) + "\n" for name in names if name in lines), encoding="utf-8")
        return {"failures": [(name, reasons[name]) for name in names if name in reasons]}

    def _answers(self, clips: Sequence[Clip], beat: Beat) -> Iterator[tuple[str, Answer]]:
        """Of each clip by its clip_id; those that cannot be decoded come last."""
        if not clips:
            return
        captioner = _opened(self.captioner, beat)
        described: list[str] = []
        undecodable: list[tuple[str, Answer]] = []

        def images() -> Iterator[np.ndarray]:
            threads = min(_DECODERS, usable_cpus())
            frames = prefetch(_try_frame, clips, ahead=2 * threads, threads=threads)
            for clip, frame in zip(clips, frames, strict=True):
                if isinstance(frame, Undescribed):
                    undecodable.append((clip.clip_id, frame))
                else:
                    described.append(clip.clip_id)
                    yield frame

        for number, answer in enumerate(captioner.caption(images())):
            yield described[number], answer
        yield from undecodable


def middle_frame(clip: Clip) -> np.ndarray:
    """The frame that a caption is to describe, uint8 [H, W, 3]: the middle one of a video, or the image itself.

    Raises: VideoDecodeError. Source: CLIP-ViP, released captioning script (frame int(total / 2)).
    """
    if clip.image is not None:
        return read_image(clip.image)
    read = read_frame_folder if clip.path.is_dir() else read_frames
    frames = read(clip.path, lambda total: np.array([middle_index(total)]), time_range=clip.time_range)
    frame: np.ndarray = frames[0]
    return frame


def _try_frame(clip: Clip) -> np.ndarray | Undescribed:
    try:
        return middle_frame(clip)
    except (VideoDecodeError, InputError) as error:
        return Undescribed(str(error))


def _opened(settings: CaptionerSettings, beat: Beat) -> Captioner:
    """Of this process; with signs of life, because a model may have to be downloaded first."""
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(_open, settings)
        while not wait([opening], timeout=_SIGN_S).done:
            beat(0)
    return opening.result()


@cache
def _open(settings: CaptionerSettings) -> Captioner:
    """Once in each process."""
    return settings.open()
