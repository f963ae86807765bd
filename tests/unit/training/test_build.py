"""What a run knows of the clips it trains on."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from clipvip.data.dataset import ClipDataset, ManifestClips, Sources
from clipvip.records import Clip
from clipvip.training import load_recipe
from clipvip.training.build import number_of_steps, usual_duration_s
from helpers_video import write_frames, write_video


def dataset(*clips: Clip) -> ClipDataset:
    return ClipDataset(
        ManifestClips(list(clips)), num_frames=4, sources=Sources("captions", None, False, False), seed=0
    )


def test_how_long_clips_are(tmp_path: Path) -> None:
    """Catches windows as long as whole films although clips are parts of them, and a run that ends for a bad file."""
    film, short = write_video(tmp_path / "film.mp4", 100), write_video(tmp_path / "short.mp4", 15)
    (tmp_path / "bad.mp4").write_text("no video")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    image = Clip("i", image=tmp_path / "photo.png", captions=("a photo",))
    clips = [
        Clip("a", video=film, start_s=2.0, end_s=4.0, captions=("a",)),
        Clip("b", video=short, captions=("b",)),
        Clip("c", video=short, start_s=1.0, captions=("c",)),
        Clip("d", video=tmp_path / "bad.mp4", captions=("d",)),
        image,
    ]
    assert usual_duration_s(dataset(*clips)) == 1.5
    assert usual_duration_s(dataset(image)) is None
    assert usual_duration_s(dataset(Clip("e", video=write_frames(tmp_path / "frames", 3), captions=("e",)))) is None


@pytest.mark.parametrize(
    ("name", "num_clips", "ours", "released"),
    [("msrvtt-b32", 9000, 7000, 7032), ("didemo-b16", 8395, 1300, 1312), ("activitynet-b32", 10009, 1560, 1564)],
)
def test_released_recipes_take_as_many_steps_as_the_released_code(
    name: str, num_clips: int, ours: int, released: int
) -> None:
    """Catches last batches that are left out where the released code counts them, and a schedule that is shorter."""
    given = ["model.init=x", "data.train=x", "data.val=x"]
    assert number_of_steps(load_recipe(f"finetune/{name}", given), num_clips) == ours
    assert number_of_steps(load_recipe(f"finetune/{name}@released", given), num_clips) == released


def test_steps_are_counted_exactly_where_passes_fill_their_batches() -> None:
    """Catches a step too many from a share that floating point cannot hold: 20 passes at a share of 0.8 are 25."""
    mixed = load_recipe("pretrain/data-both+images@released", ["model.init=x", "data.train=x", "data.mix.0.data=x"])
    assert mixed.data.mix[0].share == 0.2
    assert number_of_steps(mixed, 1024 * 20) == 25
