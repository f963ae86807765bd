"""The processor that goes with converted weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from clipvip.checkpoints import Converted, read_checkpoint, to_released
from clipvip.checkpoints.processors import processor_for
from clipvip.checkpoints.sizes import Wanted
from clipvip.errors import CheckpointError, UsageError
from clipvip.model import ClipVipConfig, ClipVipModel, ClipVipProcessor
from clipvip.model.tokenizer import train_clip_tokenizer
from helpers_model import TEXTS, write_model
from helpers_openai import Sizes, make_state


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clipvip folder, a released file of it, a folder with nothing but its tokeniser, and an OpenAI file."""
    place = tmp_path_factory.mktemp("place")
    model = ClipVipModel.from_pretrained(write_model(place / "own"))
    torch.save(to_released(model), place / "released.pt")
    tokenizer = train_clip_tokenizer(TEXTS)
    tokenizer.save_pretrained(place / "tokenizer")
    torch.save(make_state(Sizes(positions=12, vocabulary=len(tokenizer))), place / "openai.pt")
    train_clip_tokenizer(["another"], vocab_size=500).save_pretrained(place / "other")
    return place


def released(place: Path) -> Converted:
    return read_checkpoint(place / "released.pt", Wanted(2, 2))


def test_released_settings(place: Path) -> None:
    """Catches frames prepared otherwise than the released weights saw them in training."""
    processor = processor_for(released(place), place / "released.pt", place / "tokenizer")
    assert (processor.resize, processor.resize_in, processor.antialias) == ("squash", "tensor", False)
    assert (processor.num_frames, processor.image_size, processor.max_text_tokens) == (4, 32, 32)


def test_released_texts_have_at_most_70_tokens(place: Path) -> None:
    """Catches texts longer than any the released weights saw, which 77 positions would allow."""
    own = ClipVipConfig.from_pretrained(place / "own")
    own.text.max_position_embeddings = 77
    converted = read_checkpoint(to_released(ClipVipModel(own)), Wanted(2, 2))
    assert processor_for(converted, "a state dict", place / "tokenizer").max_text_tokens == 70


def test_plain_clip_settings(place: Path) -> None:
    """Catches plain CLIP fed squashed, aliased frames, or fewer text positions than it has."""
    converted = read_checkpoint(place / "openai.pt", Wanted(4, 3))
    processor = processor_for(converted, place / "openai.pt", place / "tokenizer")
    assert (processor.resize, processor.resize_in, processor.antialias) == ("crop", "tensor", True)
    assert (processor.num_frames, processor.image_size, processor.max_text_tokens) == (12, 12, 12)


def test_texts_are_cleaned_where_the_weights_were_trained_so(place: Path, tmp_path: Path) -> None:
    """Catches captions read otherwise than in training, and a setting that converting a folder again forgets."""
    files = {"openai.pt": "openai", "released.pt": "none"}
    for name, expected in files.items():
        converted = read_checkpoint(place / name, Wanted(*((4, 3) if name == "openai.pt" else (2, 2))))
        assert processor_for(converted, place / name, place / "tokenizer").text_cleaning == expected
        other = processor_for(converted, place / name, place / "tokenizer", text_cleaning="none")
        assert other.text_cleaning == "none"
    converted.model.save_pretrained(tmp_path)
    processor_for(converted, place / "released.pt", place / "tokenizer", text_cleaning="openai").save_pretrained(
        tmp_path
    )
    assert processor_for(read_checkpoint(tmp_path), tmp_path).text_cleaning == "openai"
    assert ClipVipProcessor.from_pretrained(place / "own").text_cleaning == "none"


def test_mean_and_std_of_plain_clip_are_kept(place: Path, tmp_path: Path) -> None:
    """Catches a model of other mean and std given CLIP's."""
    train_clip_tokenizer(TEXTS).save_pretrained(tmp_path)
    settings = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "do_resize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    plain = processor_for(read_checkpoint(place / "openai.pt", Wanted(4, 3)), place / "openai.pt", tmp_path)
    assert (plain.image_mean, plain.image_std) == ([0.5] * 3, [0.25] * 3)
    vip = processor_for(released(place), place / "released.pt", tmp_path)  # trained with CLIP's, whatever stands there
    assert vip.image_mean != [0.5] * 3


def test_only_the_tokeniser_of_a_clipvip_folder_is_taken(place: Path, tmp_path: Path) -> None:
    """Catches frames, sizes or mean of another model slipped in with its tokeniser."""
    write_model(tmp_path)
    ClipVipProcessor(
        train_clip_tokenizer(TEXTS), num_frames=9, image_size=96, image_mean=[0, 0, 0], max_text_tokens=5
    ).save_pretrained(tmp_path)
    for converted, source in (
        (released(place), place / "released.pt"),
        (read_checkpoint(place / "openai.pt", Wanted(4, 3)), place / "openai.pt"),
    ):
        processor = processor_for(converted, source, tmp_path)
        assert processor.num_frames == converted.model.config.num_frames
        assert processor.image_size == converted.model.config.vision.image_size
        assert processor.max_text_tokens == converted.model.config.text.max_position_embeddings
        assert processor.image_mean != [0, 0, 0]


def test_own_folder_keeps_its_processor_but_for_the_size(place: Path, tmp_path: Path) -> None:
    """Catches settings reset, and a processor that makes the old size for a resized model."""
    write_model(tmp_path)
    tokenizer = train_clip_tokenizer(TEXTS)
    ClipVipProcessor(tokenizer, num_frames=3, image_size=32, resize="crop", max_text_tokens=9).save_pretrained(tmp_path)
    processor = processor_for(read_checkpoint(tmp_path, Wanted(image_size=64)), tmp_path)
    assert (processor.num_frames, processor.resize, processor.max_text_tokens) == (3, "crop", 9)
    assert processor.image_size == 64


@pytest.mark.parametrize(
    ("tokenizer", "kind", "message"),
    [
        (None, UsageError, "released.pt is a file, which has no tokeniser.*--processor"),
        ("other", CheckpointError, "is not the model's"),
        ("nothing/at/all", CheckpointError, "no CLIP tokeniser there"),
        ("", CheckpointError, "place"),
    ],
)
def test_wrong_tokenisers(place: Path, tokenizer: str | None, kind: type[Exception], message: str) -> None:
    """Catches a folder written with a tokeniser that speaks of other tokens than the model."""
    with pytest.raises(kind, match=message):
        processor_for(released(place), place / "released.pt", None if tokenizer is None else place / tokenizer)
