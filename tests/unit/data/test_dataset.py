"""A clip's frames and texts, each in the part it plays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipvip.data.dataset import ClipDataset, Collator, ManifestClips, Sample, Sources
from clipvip.errors import ManifestError
from clipvip.records import Clip
from clipvip.video import uniform_indices
from helpers_video import sequential_decode, write_frame, write_frames, write_video

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


def both_texts(field: str, clip: Clip, num_passes: int = 40) -> list[str | None]:
    """What S is in each pass."""
    clips = ManifestClips([clip, Clip("z", image=clip.image, caption="c", subtitle="s")])
    source = ClipDataset(clips, num_frames=1, sources=Sources(field), seed=0)  # type: ignore[arg-type]
    return [source[number, 0].subtitle for number in range(num_passes)]


def test_subtitle_and_caption_together_as_released(tmp_path: Path) -> None:
    """Catches the released code's other two choices of S: another joint, a draw that is always the same."""
    image = write_frame(tmp_path / "i.png", 0)
    clip = Clip("a", image=image, caption="a dog runs", subtitle="good boy")
    assert set(both_texts("caption_subtitle_concat", clip)) == {"a dog runs. with subtitle: good boy"}
    drawn = both_texts("caption_subtitle_random", clip)
    assert 10 < drawn.count("a dog runs") < 30
    assert set(drawn) == {"a dog runs", "good boy"}
    assert drawn == both_texts("caption_subtitle_random", clip), "draws are a function of seed, pass and clip"
    for field in ("caption_subtitle_concat", "caption_subtitle_random"):
        assert set(both_texts(field, Clip("a", image=image, subtitle="good boy"))) == {"good boy"}
        assert set(both_texts(field, Clip("a", image=image, caption="a dog runs"))) == {"a dog runs"}
        assert set(both_texts(field, Clip("a", image=image, captions=("x",)))) == {None}
        with pytest.raises(ManifestError, match="has a 'caption' or 'subtitle' text"):
            ClipDataset(
                ManifestClips([Clip("a", image=image, captions=("x",))]), num_frames=1, seed=0,
                sources=Sources(field),  # type: ignore[arg-type]
            )  # fmt: skip


@pytest.mark.parametrize("cache", [False, True])
def test_a_folder_of_frames_is_a_video(cache: bool, tmp_path: Path) -> None:
    """Catches frames in the order of letters, frames of another place, and a middle frame that is not the middle."""
    folder = write_frames(tmp_path / "video7", 21)
    for i in range(995, 1002):  # three digits are not enough: 1000 comes after 999
        write_frame(tmp_path / "long" / f"long_{i}.png", i - 990)
    (folder / "notes.txt").write_text("no frame")
    clips = ManifestClips([Clip(name, video=tmp_path / name, captions=("x",)) for name in ("video7", "long")])
    source = ClipDataset(clips, num_frames=5, sources=Sources(frame=True), seed=0, jitter=False, cache=cache)
    sample, long = source[0, 0], source[0, 1]
    assert sample.video is not None
    assert sample.frame is not None
    assert long.video is not None
    assert sample.video[:, 0, 0, 0].tolist() == uniform_indices(21, 5).tolist()
    assert sample.frame[:, 0, 0, 0].tolist() == [10]
    assert long.video[:, 0, 0, 0].tolist() == [5 + index for index in uniform_indices(7, 5)]
    jittered = ClipDataset(clips, num_frames=5, sources=Sources(), seed=0)
    assert len({jittered[number, 0].video.tobytes() for number in range(8)}) > 2  # type: ignore[union-attr]


def test_folders_that_are_no_videos(tmp_path: Path) -> None:
    """Catches a folder without frames, of damaged or unlike ones, or with times, that ends a run with a traceback."""
    write_frames(tmp_path / "times", 3)
    (tmp_path / "empty").mkdir()
    write_frame(write_frames(tmp_path / "sizes", 2) / "sizes_002.png", 0, (8, 8))
    (write_frames(tmp_path / "damaged", 2) / "damaged_002.png").write_bytes(b"x")
    names = ("empty", "sizes", "damaged", "times")
    clips = [Clip(name, video=tmp_path / name, captions=("x",)) for name in names]
    clips[-1] = replace(clips[-1], end_s=1.0)
    source = ClipDataset(ManifestClips(clips), num_frames=3, sources=Sources(), seed=0, jitter=False)
    reasons = [source[0, i].failure or "" for i in range(4)]
    for reason, expected in zip(
        reasons, ("without images", "frames of 2 sizes", "picture", "has no times"), strict=True
    ):
        assert expected in reason
