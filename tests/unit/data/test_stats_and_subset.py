"""What `clipvip data stats` counts and `clipvip data subset` draws."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipvip.data.tools.stats import manifest_stats
from clipvip.data.tools.subset import draw, write_subset
from clipvip.errors import ManifestError, UsageError
from helpers_import import touch, write

ROWS = [
    {"clip_id": "a", "video": "1.mp4", "captions": ["A dog", "two words here"], "split": "train"},
    {"clip_id": "b", "video": "2.mp4", "captions": ["a  DOG "], "split": "test", "start_s": 1.5, "end_s": 4},
    {"clip_id": "b", "video": "1.mp4", "subtitle": "so", "split": "test", "start_s": 3},
    {"clip_id": "c", "video": "2.mp4", "caption": "machine made", "split": "train", "start_s": 4, "end_s": 9},
    {"clip_id": "d", "image": "i.jpg", "captions": ["a dog"]},
    {"clip_id": "e", "image": "./i.jpg", "split": "val"},
]


def ids(path: Path) -> list[str]:
    return [json.loads(line)["clip_id"] for line in path.read_text().splitlines()]


def test_counts(tmp_path: Path) -> None:
    """Catches wrong counts of splits, texts, words and seconds."""
    stats = manifest_stats(write(tmp_path / "m.jsonl", ROWS, lines=True))
    assert stats["clips"] == 6
    assert stats["by_split"] == {"train": 2, "test": 2, "(none)": 1, "val": 1}
    assert stats["with"] == {"video": 4, "image": 2, "captions": 3, "subtitle": 1, "caption": 1, "span": 3}
    assert stats["captions_per_clip"] == {"num": 6, "min": 0, "mean": 0.67, "median": 0, "p95": 2, "max": 2}
    assert stats["words"]["captions"] == {"num": 4, "min": 2, "mean": 2.25, "median": 2, "p95": 3, "max": 3}
    assert stats["durations_s"] == {
        "num": 2,
        "min": 2.5,
        "mean": 3.75,
        "median": 3.75,
        "max": 5.0,
        "total_hours": 0.002,
    }
    assert stats["media"] == {"checked": False, "missing": 0, "examples": []}
    json.dumps(stats)


def test_repeats_and_leaks(tmp_path: Path) -> None:
    """Catches a test video or caption that is also in train, and spans side by side taken for a leak."""
    stats = manifest_stats(write(tmp_path / "m.jsonl", ROWS, lines=True))
    media = {"clip_id": "e", "media": str(tmp_path / "i.jpg")}
    assert stats["duplicates"] == {
        "clip_ids": {"different": 1, "together": 2, "examples": [{"clip_id": "b", "media": str(tmp_path / "1.mp4")}]},
        "media": {"different": 1, "together": 2, "examples": [media]},
        "captions": {
            "different": 1,
            "together": 3,
            "examples": [{"clip_id": "b", "caption": "a  DOG "}, {"clip_id": "d", "caption": "a dog"}],
        },
    }
    # b of 2.mp4 ends where c of train begins; the other b lies within a of train
    leak = {"clips": 1, "examples": [{"clip_id": "b", "media": str(tmp_path / "1.mp4")}]}
    assert stats["leaks"]["media"] == {"test": leak, "val": {"clips": 0, "examples": []}}
    assert stats["leaks"]["captions"]["test"]["captions"] == 1
    assert stats["leaks"]["captions"]["val"]["captions"] == 0


def test_leaks_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    """Catches an overlap lost or made up by the sorted search: compared with every pair."""
    rng = random.Random(0)
    rows: list[dict[str, Any]] = []
    for i in range(400):
        row: dict[str, Any] = {"clip_id": str(i), "video": f"{rng.randrange(60)}.mp4"}
        row["split"] = rng.choice(["train", "train", "val", "test"])
        start = rng.randrange(2000) / 8
        if rng.random() < 0.97:
            row |= {"start_s": start, "end_s": start + rng.randrange(1, 160) / 8}
        rows.append(row)

    def overlap(a: dict[str, Any], b: dict[str, Any]) -> bool:
        spans = [(row.get("start_s", 0.0), row.get("end_s", np.inf)) for row in (a, b)]
        return a["video"] == b["video"] and spans[0][0] < spans[1][1] and spans[1][0] < spans[0][1]

    stats = manifest_stats(write(tmp_path / "m.jsonl", rows, lines=True))
    for split in ("val", "test"):
        leaked = [
            row["clip_id"]
            for row in rows
            if row["split"] == split and any(overlap(row, other) for other in rows if other["split"] == "train")
        ]
        found = stats["leaks"]["media"][split]
        assert 10 < len(leaked) < 200
        assert found["clips"] == len(leaked)
        assert [example["clip_id"] for example in found["examples"]] == leaked[:5]


def test_missing_files_and_bad_manifests(tmp_path: Path) -> None:
    """Catches files of a folder that nobody looks into, and statistics of nothing."""
    path = write(tmp_path / "m.jsonl", ROWS, lines=True)
    stats = manifest_stats(path, videos=touch(tmp_path / "v", "1.mp4", "i.jpg"))
    assert stats["media"] == {"checked": True, "missing": 2, "examples": [str(tmp_path / "v" / "2.mp4")] * 2}
    with pytest.raises(ManifestError, match="no clips"):
        manifest_stats(write(path, ""))
    with pytest.raises(ManifestError, match=r"m\.jsonl, line 1: field 'clip_id' is missing"):
        manifest_stats(write(path, '{"video": "x"}'))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [
        {"clip_id": f"c{i}", "video": f"v/{i}.mp4", "split": "test" if i % 4 else "train", "n": i} for i in range(2000)
    ]
    return write(tmp_path / "m.jsonl", rows, lines=True)


def test_shares_nest_and_keep_order(manifest: Path) -> None:
    """Catches a draw that hangs on the order or size of the file, and a tenth that is no part of a fifth."""
    outs = {}
    for share in (0.1, 0.2, 1.0):
        outs[share] = manifest.with_name(f"{share}.jsonl")
        written, seen = write_subset(manifest, outs[share], share=share)
        assert (written, seen) == (len(ids(outs[share])), 2000)
        assert abs(written / 2000 - share) < 0.03
    assert set(ids(outs[0.1])) < set(ids(outs[0.2]))
    assert outs[1.0].read_bytes() == manifest.read_bytes()
    assert ids(outs[0.1]) == [clip_id for clip_id in ids(manifest) if draw(0, clip_id) < 2**64 / 10]
    assert draw(0, "video0") == 8105819803131555398  # another machine draws the same
    assert draw(1, "video0") != draw(0, "video0")


def test_counts_are_exact_and_nest(manifest: Path, tmp_path: Path) -> None:
    """Catches a count that is off by one, or drawn from other splits."""
    few, many = tmp_path / "few.jsonl", tmp_path / "many.jsonl"
    assert write_subset(manifest, few, count=7, split="train") == (7, 500)
    assert write_subset(manifest, many, count=70, split="train", seed=0) == (70, 500)
    assert set(ids(few)) < set(ids(many))
    assert ids(many) == sorted(ids(many), key=lambda clip_id: int(clip_id[1:]))
    write_subset(manifest, many, count=70, split="train", seed=1)
    assert not set(ids(few)) < set(ids(many))
    assert all(json.loads(line)["split"] == "train" for line in few.read_text().splitlines())
    with pytest.raises(ManifestError, match="500 clips of split 'train', fewer than --count 501"):
        write_subset(manifest, few, count=501, split="train")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, UsageError, "either --share .* or --count"),
        ({"share": 0.1, "count": 2}, UsageError, "either --share .* or --count"),
        ({"share": 0.0}, UsageError, "--share 0: must be"),
        ({"share": 1.5}, UsageError, "--share 1.5: must be"),
        ({"count": 0}, UsageError, "--count 0: must be"),
        ({"share": 1e-9}, ManifestError, "nothing was drawn from 2000 clips"),
        ({"share": 0.5, "split": "dev"}, ManifestError, "nothing was drawn from 0 clips of split 'dev'"),
    ],
)
def test_wrong_draws(manifest: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    """Catches an empty manifest written, or one that overwrites its own source."""
    out = manifest.with_name("out.jsonl")
    with pytest.raises(error, match=message):
        write_subset(manifest, out, **options)
    assert not out.exists()
    before = manifest.read_bytes()
    with pytest.raises(UsageError, match="is the manifest itself"):
        write_subset(manifest, manifest.parent / "." / manifest.name, share=0.5)
    assert manifest.read_bytes() == before
