"""Training clips by name, whatever kind of thing the name stands for."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from clipvip.data.clips import open_clips
from clipvip.data.dataset import ClipDataset, Sources
from clipvip.data.manifest import write_manifest
from clipvip.data.shards import write_shards
from clipvip.errors import ManifestError, UsageError
from clipvip.records import Clip
from helpers_video import write_video


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Five videos with captions."""
    clips = [
        Clip(str(i), video=write_video(tmp_path / f"{i}.mp4", 8 + i), captions=(f"caption {i}",), split="train")
        for i in range(5)
    ]
    write_manifest(tmp_path / "m.jsonl", clips)
    return tmp_path / "m.jsonl"


def dataset(location: Path | str, split: str | None = "train") -> ClipDataset:
    """Of whatever stands there."""
    return ClipDataset(open_clips(str(location), split=split), num_frames=4, sources=Sources(frame=True), seed=0)


def test_the_same_samples_from_files_and_shards(manifest: Path, tmp_path: Path) -> None:
    """Catches shards whose draws, frames or texts differ from those of the files they were made of."""
    write_shards(manifest, tmp_path / "shards", clips_per_shard=2)
    files, shards = dataset(manifest), dataset(tmp_path / "shards", None)
    assert sorted(shards.order(3, 0)) == sorted(files.order(3, 0)) == list(range(5))
    for i in range(5):
        ours, expected = shards[1, i], files[1, i]
        assert (ours.clip_id, ours.subtitle) == (expected.clip_id, expected.subtitle)
        assert ours.video is not None
        assert ours.frame is not None
        np.testing.assert_array_equal(ours.video, expected.video)
        np.testing.assert_array_equal(ours.frame, expected.frame)


def test_tars_of_others(manifest: Path, tmp_path: Path) -> None:
    """Catches tars that only the importer can read."""
    for i in range(2):
        (tmp_path / f"{i}.txt").write_text(f"text {i}")
        with tarfile.open(tmp_path / f"part-{i}.tar", "w") as tar:
            tar.add(tmp_path / f"{i}.mp4", f"{i}.mp4")
            tar.add(tmp_path / f"{i}.txt", f"{i}.txt")
    clips = dataset(tmp_path / "part-*.tar", None)
    assert [clips[0, i].subtitle for i in range(len(clips))] == ["text 0", "text 1"]


def test_what_does_not_fit_together(manifest: Path, tmp_path: Path) -> None:
    """Catches a split that shards ignore, a folder of videos that they ignore, and bad bytes that pass."""
    with pytest.raises(ManifestError, match=r"no\.jsonl: no such manifest"):
        open_clips(str(tmp_path / "no.jsonl"))
    write_shards(manifest, tmp_path / "shards")
    with pytest.raises(UsageError, match="these shards hold all splits, not 'train'"):
        open_clips(str(tmp_path / "shards"), split="train")
    with pytest.raises(UsageError, match="shards hold their media"):
        open_clips(str(tmp_path / "shards"), videos=tmp_path)
    tar = next((tmp_path / "shards").glob("*.tar"))
    damaged = tar.read_bytes().replace(b"ftyp", b"fxxx").replace(b"moov", b"mxxx")
    tar.write_bytes(damaged)
    assert "not a media file" in (dataset(tmp_path / "shards", None)[0, 0].failure or "")


def test_frames_out_of_shards(manifest: Path, tmp_path: Path) -> None:
    """Catches the wrong frames, and one damaged picture that ends a run which leaves bad clips out."""
    write_shards(manifest, tmp_path / "frames", media="frames", fps=10)
    sample = dataset(tmp_path / "frames", None)[0, 2]
    expected = dataset(manifest)[0, 2]
    assert sample.video is not None
    assert expected.video is not None
    assert sample.video.shape == expected.video.shape
    assert np.abs(sample.video.astype(int) - expected.video).mean() < 25  # noise, as JPEG has it
    tar = next((tmp_path / "frames").glob("*.tar"))
    tar.write_bytes(tar.read_bytes().replace(b"JFIF", b"xxxx").replace(b"\xff\xd8", b"xx"))
    assert "<bytes>: not a picture" in (dataset(tmp_path / "frames", None)[0, 2].failure or "")
