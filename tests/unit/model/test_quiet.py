"""transformers' progress bars: none of ours, all of others'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import logging

import clipvip
from clipvip.captioning import find_model
from clipvip.checkpoints import convert_checkpoint
from clipvip.model import ClipVipModel
from clipvip.model.quiet import without_bars
from helpers_captioners import write_git
from helpers_model import write_model


@pytest.fixture
def bars() -> Iterator[list[str]]:
    """What the bars are called that are drawn while somebody else has a hook for them."""
    drawn: list[str] = []

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        drawn.append(options.get("desc", ""))
        return logging.EmptyTqdm(*args, **options)

    before = logging.set_tqdm_hook(hook)
    yield drawn
    logging.set_tqdm_hook(before)


def test_saving_and_loading_draw_no_bars(bars: list[str], tmp_path: Path) -> None:
    """Catches `Loading weights: 100%` on the stderr of every program that uses the library."""
    folder = write_model(tmp_path / "model")
    frames = write_model(tmp_path / "mean", aggregator="mean")
    clipvip.load(folder, device="cpu")
    ClipVipModel.from_clip(frames, num_frames=4, num_proxies=2)
    ClipVipModel.from_pretrained(folder)
    convert_checkpoint(folder)
    assert bars == []
    captioner = write_git(tmp_path / "git")  # transformers' own class, saved by the test
    assert bars.pop() == "Writing model shards"
    find_model(captioner, device="cpu").open()
    assert bars == []


def test_the_bars_of_others_come_back(bars: list[str], tmp_path: Path) -> None:
    """Catches a switch left behind: by an error, by a block within a block, or by one that ends before another."""
    with pytest.raises(OSError, match="nowhere"):
        ClipVipModel.from_pretrained(tmp_path / "nowhere")
    list(logging.tqdm([], desc="after an error"))
    first, second = without_bars(), without_bars()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    list(logging.tqdm([], desc="within the second"))
    second.__exit__(None, None, None)
    list(logging.tqdm([], desc="after both"))
    assert bars == ["after an error", "after both"]
