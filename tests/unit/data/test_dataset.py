"""A clip's frames and texts, each in the part it plays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from clipvip.data.dataset import ClipDataset, Collator, Sample, Sources
from clipvip.data.source import ManifestClips
from clipvip.records import Clip
from clipvip.video import uniform_indices
from helpers_video import sequential_decode, write_video

NUM_FRAMES = 30


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ManifestClips:
    """Two clips of the same video, whose frames all differ."""
    path = write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", NUM_FRAMES)
    return ManifestClips([Clip(name, video=path, captions=("text",)) for name in "ab"])


def indices(clips: ManifestClips, pictures: np.ndarray | None) -> list[int]:
    """Which frames of the video these are."""
    assert pictures is not None
    frames = sequential_decode(clips.clips[0].path)
    return [next(i for i, frame in enumerate(frames) if np.array_equal(frame, picture)) for picture in pictures]


def test_the_middle_frame_is_the_clips_own_wherever_the_sample_lies(clips: ManifestClips) -> None:
    """Catches F taken from the middle of the drawn frames: auxiliary captions describe the clip's middle."""
    source = ClipDataset(clips, num_frames=4, sources=Sources(frame=True), seed=0)
    for number in range(8):
        assert indices(clips, source[number, 0].frame) == [NUM_FRAMES // 2]


def test_frames_are_drawn_by_pass_and_clip(clips: ManifestClips) -> None:
    """Catches the same frames in every pass or for every clip, draws that hang on what was asked for before, and
    jitter where none is wanted."""
    source = ClipDataset(clips, num_frames=4, sources=Sources(), seed=0)
    drawn = {(number, i): indices(clips, source[number, i].video) for number in range(4) for i in (1, 0)}
    assert len({tuple(drawn[number, 0]) for number in range(4)}) > 2
    assert any(drawn[number, 0] != drawn[number, 1] for number in range(4))
    assert indices(clips, source[2, 0].video) == drawn[2, 0]
    uniform = ClipDataset(clips, num_frames=4, sources=Sources(), seed=0, jitter=False)
    for number in range(2):
        assert indices(clips, uniform[number, 0].video) == uniform_indices(NUM_FRAMES, 4).tolist()


def tokenize(texts: Sequence[str]) -> dict[str, Tensor]:
    """A text's length, a token."""
    ids = torch.tensor([[len(text)] for text in texts])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def not_needed(pictures: np.ndarray | Tensor) -> Tensor:
    raise AssertionError("the pictures have the model's size")


def test_a_batch_keeps_videos_frames_and_both_texts_apart() -> None:
    """Catches C made of S, a text or picture of another row, and clips without a text that are not marked."""

    def picture(value: int, num_frames: int) -> np.ndarray:
        return np.full((num_frames, 8, 8, 3), value, np.uint8)

    samples = [
        Sample("a", picture(1, 2), picture(2, 1), "s", "cc"),
        Sample("bad", failure="damaged"),
        Sample("b", picture(3, 2), picture(4, 1), None, "cccc"),
        Sample("c", picture(5, 2), picture(6, 1), "sss", None),
    ]
    batch = Collator(tokenize, not_needed, 8, "squash", Sources("subtitle", "caption", frame=True))(samples)
    assert batch.clip_ids == ("a", "b", "c")
    assert batch.failures == (("bad", "damaged"),)
    assert batch.frame is not None
    assert batch.caption is not None
    assert batch.video.shape == (3, 2, 8, 8, 3)
    assert batch.video[:, 0, 0, 0, 0].tolist() == [1, 3, 5]
    assert batch.frame[:, 0, 0, 0, 0].tolist() == [2, 4, 6]
    assert batch.subtitle.input_ids.tolist() == [[1], [0], [3]]
    assert batch.subtitle.valid.tolist() == [True, False, True]
    assert batch.caption.input_ids.tolist() == [[2], [4], [0]]
    assert batch.caption.valid.tolist() == [True, True, False]
