"""Files that a user hands over, or a disk has damaged, are one clear line, however deeply they are nested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipvip.cli.demo import claim_folder
from clipvip.data.manifest import read_manifest
from clipvip.embedding_sets import open_embeddings
from clipvip.errors import ClipVipError
from clipvip.evaluation.saved import read_ranks
from clipvip.jobs.runner import _described, _receipt_of
from clipvip.reproduce.run import read_notes
from clipvip.training.recipes import load_recipe

NESTED = "[" * 100_000
MEMBERS: list[tuple[str, Callable[[Path], Any]]] = [
    ("clips.jsonl", lambda folder: read_manifest(folder / "clips.jsonl")),
    ("recipe.yaml", lambda folder: load_recipe(str(folder / "recipe.yaml"))),
    ("job.json", lambda folder: _described(folder / "job.json")),
    ("embeddings.json", open_embeddings),
    ("ranks.jsonl", lambda folder: read_ranks(folder / "ranks.jsonl")),
    ("reproduce.json", read_notes),
    ("demo.json", lambda folder: claim_folder(folder, 0, "small")),
]


@pytest.mark.parametrize("text", [NESTED, '{"a": ' * 100_000, "3", "{"], ids=["lists", "mappings", "number", "cut"])
@pytest.mark.parametrize(("name", "read"), MEMBERS, ids=[name for name, _ in MEMBERS])
def test_a_nested_or_cut_file_is_one_line(tmp_path, name, read, text):
    """Catches RecursionError, and the traceback of what has the wrong type."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ClipVipError) as caught:
        read(tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_nested_override(tmp_path):
    """Catches RecursionError for an override on the command line."""
    with pytest.raises(ClipVipError, match="not valid YAML"):
        load_recipe("demo/pretrain", ["optim.lr=" + NESTED[:20_000]])


@pytest.mark.parametrize("text", [NESTED, "3", "{}"])
def test_a_damaged_receipt_is_no_receipt(tmp_path, text):
    """Catches a job that cannot continue because of one receipt: its part is done again."""

    class Task:
        name, suffix = "part", ".bin"

    (tmp_path / "receipts").mkdir()
    (tmp_path / "receipts" / "000000.json").write_text(text)
    (tmp_path / "part-000000.bin").write_text("")
    assert _receipt_of(Task(), 0, tmp_path) is None
