"""Hugging Face captioners: tiny random models of every kind, saved to disk and really run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from clipvip.captioning import CaptionModel, find_model
from clipvip.captioning.models import ModelCaptioner
from clipvip.errors import CheckpointError, ClipVipError, UsageError
from helpers_captioners import KINDS, pictures, write_blip, write_chat, write_encoder_decoder
from helpers_model import write_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each kind."""
    root = tmp_path_factory.mktemp("captioners")
    return {kind: write(root / kind) for kind, write in KINDS.items()}


def opened(folder: Path, **options: Any) -> ModelCaptioner:
    return ModelCaptioner(find_model(folder, device="cpu", **options))


def texts(captioner: ModelCaptioner, count: int = 5) -> list[str]:
    return [answer.text for answer in captioner.caption(pictures(count))]


def with_config(folder: Path, copy: Path, file: str, **changes: Any) -> Path:
    """A copy of a model folder with other settings in one of its files."""
    shutil.copytree(folder, copy)
    values = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(values | changes))
    return copy


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_says_what_each_image_alone_says(folders: dict[str, Path], kind: str) -> None:
    """Catches padding on the wrong side, answers in another order, and captions that do not hang on the picture."""
    one_by_one, together = opened(folders[kind], batch_size=1), opened(folders[kind], batch_size=3)
    said = texts(one_by_one)
    assert len(said) == 5
    assert len(set(said)) > 2
    assert texts(together) == said


@pytest.mark.parametrize("kind", KINDS)
def test_beams_are_searched(folders: dict[str, Path], kind: str) -> None:
    """Catches an option that is accepted and ignored."""
    assert texts(opened(folders[kind], num_beams=4)) != texts(opened(folders[kind], num_beams=1))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_drawn(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """Catches sampling that a model's own files ask for: a resumed job would give other captions."""
    drawing = {"do_sample": True, "temperature": 5.0, "max_length": 3}
    loud = with_config(folders[kind], tmp_path / "loud", "generation_config.json", **drawing)
    assert texts(opened(loud)) == texts(opened(folders[kind]))


@pytest.mark.parametrize("kind", ["blip", "git"])
def test_the_beginning_of_a_caption(folders: dict[str, Path], kind: str) -> None:
    """Catches a prompt that is ignored, ends before the caption begins, or stands in it; a word cut off with it."""
    beginning = "a dog plays with a"
    captioner = opened(folders[kind], prompt=beginning, batch_size=2)
    model, tokenizer = captioner._model, captioner._asker.tokenizer
    words = tokenizer(beginning, add_special_tokens=False)["input_ids"]
    ends = [tokenizer.sep_token_id] if kind == "blip" else []  # BLIP takes off the last token itself
    expected = []
    for picture in pictures(5):
        inputs = {"input_ids": torch.tensor([[tokenizer.cls_token_id, *words, *ends]])}
        inputs["pixel_values"] = captioner._asker.prepared(picture)
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=64)
        expected.append(tokenizer.decode(tokens[0, 1 + len(words) :], skip_special_tokens=True))
    assert texts(captioner) == expected
    assert expected != texts(opened(folders[kind]))


def test_the_question_to_a_model_that_chats(folders: dict[str, Path]) -> None:
    """Catches a question that the model never hears, or that stands in the answer."""
    asked = texts(opened(folders["chat"], prompt="describe the snow ."))
    assert asked != texts(opened(folders["chat"]))
    assert not any("assistant :" in text for text in asked)


def test_answers_are_as_long_as_the_words_need(folders: dict[str, Path]) -> None:
    """Catches captions cut short by the limit that stands in the model's files, and models that go on for ever."""
    tokenizer = opened(folders["blip"])._asker.tokenizer
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts(opened(folders["blip"]))]
    assert 16 < max(lengths) <= 64


def test_a_decoder_with_few_positions(tmp_path: Path) -> None:
    """Catches an index beyond the decoder's positions (and tokens that only the tokeniser knows)."""
    captioner = opened(write_encoder_decoder(tmp_path / "short", positions=12, says_tokens=False))
    said = texts(captioner)
    assert len(said) == 5
    assert all(len(text.split()) <= 12 for text in said)
    assert captioner._tokens == {"eos_token_id": 3, "pad_token_id": 0, "decoder_start_token_id": 2}


def test_half_precision(folders: dict[str, Path]) -> None:
    """Catches pixels in another type than the weights, and a type that is accepted and ignored."""
    captioner = opened(folders["git"], dtype="bfloat16")
    assert captioner._model.dtype == torch.bfloat16
    assert len(texts(captioner)) == 5
    assert opened(folders["git"])._model.dtype == torch.float32


def test_too_little_memory_is_told(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches clips that are blamed one by one for a batch that is too large."""
    captioner = opened(folders["git"], batch_size=4)

    def no_room(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(captioner._model, "generate", no_room)
    with pytest.raises(ClipVipError, match="4 images at once; choose a smaller --batch-size"):
        texts(captioner)


def test_the_revision_is_that_of_the_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    """Catches two models under one revision, one model under two, and a path of this machine in manifests."""
    model = find_model(folders["blip"])
    assert (model.name, model.commit) == ("blip", None)
    copy = shutil.copytree(folders["blip"], tmp_path / "copy")
    (copy / "README.md").write_text("a model")
    assert find_model(copy).revision == model.revision
    assert str(tmp_path) not in str(find_model(copy).settings())
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert find_model(copy).revision != model.revision


def test_a_model_of_the_hub(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a branch's name noted in place of its commit, and a worker that loads what the branch has become."""
    from huggingface_hub import constants

    commit, later = "0123456789abcdef0123456789abcdef01234567", "f" * 40
    repository = tmp_path / "models--org--tiny"
    for revision, kind in ((commit, "blip"), (later, "git")):
        shutil.copytree(folders[kind], repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (repository / "refs" / "next").write_text(later)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = find_model("org/tiny")
    assert (model.name, model.revision, model.commit) == ("org/tiny", commit, commit)
    assert find_model("org/tiny", revision="next").revision == later
    (repository / "refs" / "main").write_text(later)
    assert model.open()._model.config.model_type == "blip"  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="org/other: neither a folder nor a model on the hub"):
        find_model("org/other")


def test_what_is_no_captioner(folders: dict[str, Path], tmp_path: Path) -> None:
    """Catches tracebacks, hours of noise from a model that was never trained to describe, and useless options."""
    with pytest.raises(CheckpointError, match="no/such/folder: neither a folder nor a model on the hub"):
        find_model("no/such/folder")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty: cannot be loaded as a captioner"):
        find_model(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="a clipvip model, which describes no images; captioners are blip, git"):
        find_model(write_model(tmp_path / "clipvip"))
    silent = write_chat(tmp_path / "silent", template=False)
    with pytest.raises(CheckpointError, match="a llava model without chat template"):
        opened(silent)
    with pytest.raises(UsageError, match=r"--revision main: .* is a folder"):
        find_model(folders["git"], revision="main")
    with pytest.raises(UsageError, match=r"--prompt: .* takes none"):
        find_model(folders["encoder-decoder"], prompt="a dog")
    with pytest.raises(UsageError, match="--dtype float8: choose auto"):
        find_model(folders["git"], dtype="float8")
    with pytest.raises(UsageError, match="device='abacus'"):
        ModelCaptioner(find_model(folders["git"], device="abacus"))


def test_damaged_weights(tmp_path: Path) -> None:
    """Catches captions of weights that are not there: transformers would draw new ones and only warn."""
    from safetensors.torch import load_file, save_file

    folder = write_blip(tmp_path / "blip")
    weights = load_file(folder / "model.safetensors")
    name = "vision_model.encoder.layers.0.self_attn.qkv.weight"
    save_file({key: value for key, value in weights.items() if key != name}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"weights are missing or of another shape \({name}\)"):
        opened(folder)
    save_file({**weights, name: weights[name][:4].clone()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"blip: .*qkv.weight"):
        opened(folder)
    (folder / "model.safetensors").write_bytes(b"half of it")
    with pytest.raises(CheckpointError, match="cannot be loaded as a captioner"):
        opened(folder)


def test_settings_travel(folders: dict[str, Path]) -> None:
    """Catches settings that cannot be told apart, or that forbid to go on with another batch size."""
    model = find_model(folders["git"], batch_size=2)
    assert isinstance(model, CaptionModel)
    assert hash(model) == hash(find_model(folders["git"], batch_size=2))
    assert model.settings() == find_model(folders["git"], batch_size=4, device="cpu").settings()
    assert model.settings() != find_model(folders["git"], num_beams=2).settings()
