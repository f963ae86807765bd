"""Negative controls: what cannot be learnt must not be scored. Minutes of training, through the demo's own stages."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

import clipvip
from clipvip.cli.demo import make_world_with_tokenizer, retrieve_test, train_stage
from clipvip.data.manifest import read_manifest, write_manifest
from clipvip.data.synthetic import NUM_FRAMES, write_video
from clipvip.evaluation import rank_retrieval, report_retrieval
from clipvip.video import read_frames

pytestmark = pytest.mark.long
SEED = 11


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo folder up to the end of post-pre-training."""
    out = tmp_path_factory.mktemp("pretrained")
    make_world_with_tokenizer(out / "world", SEED, "full")
    for stage in ("warmstart", "pretrain"):
        train_stage(stage, out, SEED, "full")
    return out


def finetune(pretrained: Path, out: Path) -> dict[str, object]:
    """Fine-tune in `out` (which has a world of its own) and score the test split."""
    shutil.copytree(pretrained / "runs", out / "runs")
    train_stage("finetune", out, SEED, "full")
    found = retrieve_test(clipvip.load(out / "runs" / "finetune" / "model"), out / "world")
    return report_retrieval(found, rank_retrieval(found), ties="average")


def test_shuffled_captions_score_chance(pretrained: Path, tmp_path: Path) -> None:
    """Catches a leak of the answer: with captions dealt out at random nothing is left to learn but chance (0.2 %)."""
    shutil.copytree(pretrained / "world", tmp_path / "world")
    manifest = tmp_path / "world" / "retrieval.jsonl"
    clips = read_manifest(manifest)
    dealt = np.random.default_rng(SEED).permutation(len(clips))
    write_manifest(
        manifest, [dataclasses.replace(c, captions=clips[i].captions) for c, i in zip(clips, dealt, strict=True)]
    )
    scores = finetune(pretrained, tmp_path)
    assert scores["plain"]["t2v"]["R@1"] <= 1.0  # type: ignore[index]
    assert scores["plain"]["t2v"]["MdR"] > 200  # type: ignore[index]


def test_shuffled_frames_toss_a_coin_between_twins(pretrained: Path, tmp_path: Path) -> None:
    """Catches a clip told from its reversal by something else than order (file, encoding, sampling)."""
    shutil.copytree(pretrained / "world", tmp_path / "world")
    rng = np.random.default_rng(SEED)
    for clip in read_manifest(tmp_path / "world" / "retrieval.jsonl"):
        frames = read_frames(clip.path, range(NUM_FRAMES))
        write_video(clip.path, frames[rng.permutation(NUM_FRAMES)])
    scores = finetune(pretrained, tmp_path)
    assert 45 <= scores["twin_accuracy"] <= 55  # type: ignore[operator]
