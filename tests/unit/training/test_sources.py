"""What a run knows of the clips it trains on."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from clipvip.data.dataset import ClipDataset, Sources
from clipvip.data.source import ManifestClips
from clipvip.records import Clip
from clipvip.training.sources import usual_duration_s
from helpers_video import write_video


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
