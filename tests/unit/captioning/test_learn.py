"""A captioner of one's own, learnt from a few images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from clipvip.captioning import find_model
from clipvip.captioning.learn import _Collator, learn_captioner, word_tokenizer
from clipvip.errors import InputError, UsageError
from clipvip.model import ClipVipConfig, ClipVipModel, ClipVipProcessor
from clipvip.model.tokenizer import train_clip_tokenizer
from clipvip.records import Clip
from helpers_model import TEXTS, write_model

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 230)}


def _painted(folder: Path, count: int) -> list[Clip]:
    """Images of one colour, with its name in two kinds of text."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    clips = []
    for number in range(count):
        name = list(COLORS)[number % len(COLORS)]
        pixels = np.clip(np.array(COLORS[name]) + rng.integers(-25, 25, (40, 40, 3)), 0, 255).astype(np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        text = f"{name} paint on paper" if number % 4 else f"photo: {name} (paint), small"
        clips.append(Clip(f"image{number}", image=path, captions=(text,)))
    return clips


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that sees frame by frame."""
    folder = tmp_path_factory.mktemp("vision")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = train_clip_tokenizer(TEXTS)
    config = ClipVipConfig(
        text_config={**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 32},
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        projection_dim=16, num_frames=4, num_proxies=1, aggregator="mean",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ClipVipModel(config).save_pretrained(folder)
    ClipVipProcessor(tokenizer, num_frames=4, image_size=32, max_text_tokens=32).save_pretrained(folder)
    return folder


def test_says_what_the_images_show_in_their_plain_form(tmp_path: Path, vision: Path) -> None:
    """Catches a captioner that learns nothing, another normalisation in learning than in captioning, a start token
    that is left out, and texts of another form that get in."""
    clips = _painted(tmp_path / "images", 60)
    told: list[tuple[int, int]] = []
    num = learn_captioner(
        clips, vision, tmp_path / "captioner", steps=60, batch_size=30, progress=lambda *count: told.append(count)
    )
    assert (num, told) == (45, [(1, 60)] * 60)
    assert not [path for path in tmp_path.iterdir() if "unfinished" in path.name]
    captioner = find_model(tmp_path / "captioner", batch_size=8).open()
    images = [np.full((40, 40, 3), color, np.uint8) for color in COLORS.values()]
    assert [answer.text for answer in captioner.caption(images)] == [f"{name} paint on paper" for name in COLORS]


def test_same_seed_same_weights(tmp_path: Path, vision: Path) -> None:
    """Catches randomness that the seed does not reach: the demo's figures would not be reproducible."""
    clips = _painted(tmp_path / "images", 12)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        learn_captioner(clips, vision, tmp_path / name, steps=3, batch_size=4, seed=seed)
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert weights["a"] == weights["b"] != weights["c"]


def test_batches_have_the_processors_pixels_and_mirror_only_what_has_no_side() -> None:
    """Catches pixels unlike those that captioning will see, and "left" taught with a mirrored image."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    texts = ["box on the left", "a box"]
    processor = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    collator = _Collator(
        torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()), texts, word_tokenizer(texts), processor
    )
    expected = processor(images=[Image.fromarray(picture) for picture in pictures], return_tensors="pt")["pixel_values"]
    mirrored = set()
    torch.manual_seed(0)
    for _ in range(20):
        batch = collator([0, 1])
        torch.testing.assert_close(batch["pixel_values"][0], expected[0])
        as_it_is = torch.allclose(batch["pixel_values"][1], expected[1], atol=1e-6)
        assert as_it_is or torch.allclose(batch["pixel_values"][1], expected[1].flip(-1), atol=1e-6)
        mirrored.add(not as_it_is)
    assert mirrored == {True, False}
    assert (batch["labels"] == -100).sum() == 2  # the shorter text's padding
    assert batch["decoder_attention_mask"].sum(1).tolist() == [5, 4]  # the start put before it


def test_refuses_what_it_cannot_learn_from(tmp_path: Path, vision: Path) -> None:
    """Catches an error of torch's in place of a line that says what is wrong."""
    clips = _painted(tmp_path / "images", 3)
    with pytest.raises(InputError, match="no image with a text of words alone"):
        learn_captioner(clips[:1], vision, tmp_path / "captioner", steps=1)
    with pytest.raises(UsageError, match="of aggregator vip"):
        learn_captioner(clips, write_model(tmp_path / "vip"), tmp_path / "captioner", steps=1)
    assert not (tmp_path / "captioner").exists()
