"""Embedding sets with parts that are missing or damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clipvip.embedding_sets import encode_manifest, open_embeddings
from clipvip.errors import ClipVipError
from clipvip.search import Library
from helpers_cli import run_here
from helpers_model import write_model
from helpers_video import write_videos


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of five parts."""
    folder = tmp_path_factory.mktemp("set")
    videos = write_videos(folder / "videos", 8, 9, 10, 11, 12)
    lines = [json.dumps({"clip_id": str(i), "video": str(videos / f"{i}.mp4"), "captions": ["x"]}) for i in range(5)]
    (folder / "clips.jsonl").write_text("\n".join(lines))
    encode_manifest(
        folder / "clips.jsonl", folder / "set", model=str(write_model(folder / "model")), device="cpu", part_size=1
    )
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source / "set", tmp_path / "set"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def exchange(path: Path) -> None:
    other = path.with_name("embeddings-000001.parquet")
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("receipts", [True, False])
@pytest.mark.parametrize("damage", [Path.unlink, flip, cut, exchange])
def test_a_damaged_part_is_named(folder, tmp_path, capsys, receipts, damage):
    """Catches an index of four parts of five, other vectors than were encoded, and a traceback for a cut file."""
    part = folder / "embeddings-000003.parquet"
    damage(part)
    if not receipts:
        shutil.rmtree(folder / "receipts")
    silent = not receipts and damage is exchange  # nothing is left to compare with
    if silent or (not receipts and damage is flip):
        return
    with pytest.raises(ClipVipError, match=r"embeddings-000003\.parquet: ") as caught:
        Library(tmp_path / "index").add_embeddings(open_embeddings(folder))
    assert "\n" not in str(caught.value)
    assert run_here("index", "--embeddings", str(folder), "--index", str(tmp_path / "index")) == 1
    assert "embeddings-000003.parquet: " in capsys.readouterr().err


@pytest.mark.parametrize("receipts", [True, False])
def test_the_last_part_is_missing(folder, tmp_path, receipts):
    """Catches a set that was copied in part."""
    (folder / "embeddings-000004.parquet").unlink()
    if not receipts:
        shutil.rmtree(folder / "receipts")
    with pytest.raises(
        ClipVipError, match=r"000004.parquet: this part .* is missing" if receipts else "4 of 5|8 of 10"
    ):
        Library(tmp_path / "index").add_embeddings(open_embeddings(folder))


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"file": 3}'])
def test_damaged_receipts_and_facts(folder, text):
    """Catches a traceback for nested or cut JSON."""
    (folder / "receipts" / "000002.json").write_text(text)
    with pytest.raises(ClipVipError, match=r"000002.json: damaged; delete"):
        _ = open_embeddings(folder).table
    (folder / "embeddings.json").write_text(text)
    with pytest.raises(ClipVipError):
        open_embeddings(folder)


def test_encode_repairs_a_deleted_part(source, tmp_path):
    """Catches advice that does not work."""
    work = Path(shutil.copytree(source, tmp_path / "work"))
    set_ = work / "set"
    rows = pq.read_table(set_ / "embeddings-000003.parquet")
    (set_ / "embeddings-000003.parquet").unlink()
    encode_manifest(source / "clips.jsonl", set_, model=str(source / "model"), device="cpu", part_size=1)
    assert open_embeddings(set_).table.slice(6, 2).drop_columns("vector") == rows.drop_columns("vector")
