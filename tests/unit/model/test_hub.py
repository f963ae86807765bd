"""How models are named, and that nothing which comes with one is run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer, CLIPConfig, CLIPModel

import clipvip
from clipvip.captioning.models import find_model
from clipvip.checkpoints import convert_checkpoint
from clipvip.checkpoints.processors import processor_for
from clipvip.errors import CheckpointError, UsageError
from clipvip.model import ClipVipModel, ClipVipProcessor
from clipvip.model.hub import load_tokenizer, locate, split_revision
from clipvip.model.tokenizer import train_clip_tokenizer
from clipvip.training.build import build_model
from clipvip.training.config import ModelSection
from helpers_cli import run_here
from helpers_model import TEXTS, tiny_config, write_model


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("openai/clip-vit-base-patch32", ("openai/clip-vit-base-patch32", None)),
        ("openai/clip-vit-base-patch32@3d74acf", ("openai/clip-vit-base-patch32", "3d74acf")),
        ("owner/name@refs/pr/1", ("owner/name", "refs/pr/1")),
        ("name@v1.0", ("name", "v1.0")),
        ("runs/of me@home/model", ("runs/of me@home/model", None)),
        ("/runs/me@home/model", ("/runs/me@home/model", None)),
        ("a/b/c@d", ("a/b/c@d", None)),
        ("name@", ("name@", None)),
    ],
)
def test_a_revision_is_told_from_a_path(source: str, expected: tuple[str, str | None]) -> None:
    """Catches a revision that stays in the hub id, and a path that is cut at its "@"."""
    assert split_revision(source) == split_revision(Path(source)) == expected


def test_a_folder_whose_name_has_an_at_sign_stays_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches `models/mine@home`, which is there, taken for a revision of a hub model."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "models" / "mine@home")
    assert split_revision("models/mine@home") == ("models/mine@home", None)
    assert clipvip.load("models/mine@home", device="cpu").embedding_size == 16


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a folder into the hub's local cache under an id and a revision, as a download does; there is no network."""
    for module in ("huggingface_hub.constants", "transformers.utils.hub"):
        for name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_HUB_OFFLINE"):
            if hasattr(sys.modules[module], name):
                value: Any = True if name == "HF_HUB_OFFLINE" else str(tmp_path / "cache")
                monkeypatch.setattr(sys.modules[module], name, value)

    def put(folder: Path, id_: str, revision: str) -> None:
        place = tmp_path / "cache" / f"models--{id_.replace('/', '--')}"
        commit = (revision * 40)[:40].encode().hex()[:40]
        shutil.copytree(folder, place / "snapshots" / commit)
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / revision).write_text(commit)

    return put  # type: ignore[return-value]


def test_a_revision_counts_wherever_a_model_is_named(hub: Callable[..., None], tmp_path: Path) -> None:
    """Catches a place that takes the main branch, or the whole of ID@REVISION for an id."""
    for seed, revision in ((0, "main"), (1, "second")):
        hub(write_model(tmp_path / revision, seed), "owner/model", revision)
    texts = ["a red circle"]
    expected = clipvip.load(tmp_path / "second", device="cpu")
    named = clipvip.load("owner/model@second", device="cpu")
    assert named.fingerprint == expected.fingerprint != clipvip.load("owner/model", device="cpu").fingerprint
    assert named.source == "owner/model@second"
    assert (named.encode_texts(texts) == expected.encode_texts(texts)).all()
    weights = [
        model.state_dict()["text_projection.weight"]
        for model in (
            ClipVipModel.from_pretrained(tmp_path / "second"),
            ClipVipModel.from_pretrained("owner/model@second"),
            convert_checkpoint("owner/model@second"),
            build_model(ModelSection(init="owner/model@second", num_frames=4, max_text_tokens=32))[0],
        )
    ]
    assert all((other == weights[0]).all() for other in weights[1:])
    assert ClipVipProcessor.from_pretrained("owner/model@second").image_size == 32
    assert len(load_tokenizer("owner/model@second")) == len(expected.processor.tokenizer)
    with pytest.raises(CheckpointError, match="owner/model@third: no usable model there"):
        clipvip.load("owner/model@third", device="cpu")
    with pytest.raises(UsageError, match="names one already"):
        find_model("owner/model@second", revision="main")


def write_clip(folder: Path) -> Path:
    tokenizer = train_clip_tokenizer(TEXTS)
    config = tiny_config(tokenizer, 32, projection_dim=16)
    sizes = {"text_config": config.text.to_dict(), "vision_config": config.vision.to_dict()}
    CLIPModel(CLIPConfig(**sizes, projection_dim=16)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_plain_clip_of_a_revision(hub: Callable[..., None], tmp_path: Path) -> None:
    """Catches `from_clip` and its processor that look elsewhere than `load` does."""
    hub(write_clip(tmp_path / "clip"), "owner/clip", "v2")
    assert ClipVipModel.from_clip("owner/clip@v2", num_proxies=1).config.projection_dim == 16
    assert clipvip.load("owner/clip@v2", device="cpu").embedding_size == 16
    converted = convert_checkpoint("owner/clip@v2")
    assert converted.config.aggregator == "mean"
    with pytest.raises(CheckpointError, match="owner/clip: no usable model there"):
        clipvip.load("owner/clip", device="cpu")  # there is no main branch in the cache


HOSTILE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
Path("{trace}").touch()
"""


@pytest.mark.parametrize("kind", ["model", "tokenizer"])
def test_code_in_a_folder_is_neither_run_nor_asked_about(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches the question "run the custom code? [y/N]", whose "y" runs whatever a model folder brings."""
    folder, trace = write_clip(tmp_path / "m"), tmp_path / "ran"
    (folder / "hostile.py").write_text(HOSTILE.format(trace=trace))
    if kind == "model":
        auto = {"AutoConfig": "hostile.Config", "AutoModel": "hostile.Model", "AutoTokenizer": [None, "hostile.Tok"]}
        (folder / "config.json").write_text(json.dumps({"model_type": "hostile", "auto_map": auto}))
    else:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings |= {"tokenizer_class": "Hostile", "auto_map": {"AutoTokenizer": [None, "hostile.Hostile"]}}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "config.json").write_text(json.dumps({"model_type": "hostile", "auto_map": {}}))

    def asked(*_: object) -> str:
        raise AssertionError("something was asked")

    monkeypatch.setattr("builtins.input", asked)
    name = str(folder)
    calls: list[Callable[[], Any]] = [
        lambda: clipvip.load(name, device="cpu"),
        lambda: ClipVipModel.from_clip(name),
        lambda: convert_checkpoint(name),
        lambda: build_model(ModelSection(init=name)),
        lambda: find_model(name),
    ]
    for call in calls:
        with pytest.raises(CheckpointError, match=r"comes with code of its own .* which is never run") as error:
            call()
        assert "\n" not in str(error.value)
        assert "trust_remote_code" not in str(error.value)
    with pytest.raises(CheckpointError):
        ClipVipProcessor.from_clip(name)
    if kind == "tokenizer":
        with pytest.raises(CheckpointError, match="no CLIP tokeniser there"):
            load_tokenizer(name)
    assert run_here("search", "a dog", "--index", tmp_path / "none", "--model", folder) == 1
    assert not trace.exists()
    assert not (folder / "ran").exists()
    capsys.readouterr()


def test_a_known_model_with_a_map_of_code_loads_without_it(tmp_path: Path) -> None:
    """Catches a CLIP folder refused because somebody saved an auto_map with it: its type is known, nothing is run."""
    folder = write_clip(tmp_path / "m")
    settings = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "hostile.Model"}}
    (folder / "config.json").write_text(json.dumps(settings))
    assert clipvip.load(folder, device="cpu").embedding_size == 16


def test_an_adapter_says_how_to_merge_it(tmp_path: Path) -> None:
    """Catches an adapter refused as an empty folder, or a base model loaded without it in silence."""
    folder = write_clip(tmp_path / "m")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "openai/clip", "r": 8}))
    for call in (clipvip.load, convert_checkpoint, ClipVipModel.from_clip):
        with pytest.raises(CheckpointError, match=r"an adapter for openai/clip, not a whole model; merge it .*peft"):
            call(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"adapter_config.json: cannot be read"):
        clipvip.load(folder)


def write_sentence_transformers(folder: Path, *kinds: str) -> Path:
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    write_clip(folder / f"0_{kinds[0]}")
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_a_sentence_transformers_folder_stands_for_its_clip(tmp_path: Path) -> None:
    """Catches a folder whose CLIP is one level down refused, or loaded although more happens to its features."""
    folder = write_sentence_transformers(tmp_path / "st", "CLIPModel")
    texts = ["a red circle"]
    inside = clipvip.load(folder / "0_CLIPModel", device="cpu")
    assert (clipvip.load(folder, device="cpu").encode_texts(texts) == inside.encode_texts(texts)).all()
    assert convert_checkpoint(folder).config.projection_dim == 16
    normalised = write_sentence_transformers(tmp_path / "n", "CLIPModel", "Normalize")
    assert locate(normalised)[0] == str(normalised / "0_CLIPModel")
    for kinds in (("CLIPModel", "Dense"), ("Transformer", "Pooling")):
        other = write_sentence_transformers(tmp_path / kinds[1], *kinds)
        with pytest.raises(CheckpointError, match=f"of other modules than one CLIPModel .*{kinds[1]}"):
            clipvip.load(other)
    (folder / "modules.json").write_text(json.dumps([{"path": "../../etc", "type": "x.CLIPModel"}]))
    with pytest.raises(CheckpointError, match="sentence-transformers folder"):
        clipvip.load(folder)


def test_weights_without_a_configuration_say_what_makes_a_model_of_them(tmp_path: Path) -> None:
    """Catches an open_clip download refused as no model: one command makes a folder of it."""
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(
        CheckpointError, match=r"without a config.json, .* clipvip convert .*open_clip_pytorch_model.bin"
    ):
        clipvip.load(tmp_path)


def test_the_processor_of_a_revision(hub: Callable[..., None], tmp_path: Path) -> None:
    """Catches a processor converted from the main branch for weights of another."""
    write_model(tmp_path / "m")
    processor = ClipVipProcessor.from_pretrained(tmp_path / "m")
    processor.num_frames = 9
    processor.save_pretrained(tmp_path / "m")
    hub(tmp_path / "m", "owner/model", "v9")
    from clipvip.checkpoints import read_checkpoint

    assert processor_for(read_checkpoint("owner/model@v9"), "owner/model@v9").num_frames == 9
    assert AutoConfig.from_pretrained("owner/model", revision="v9").model_type == "clipvip"
    assert AutoTokenizer.from_pretrained("owner/model", revision="v9").eos_token_id is not None


def test_a_folder_has_no_revisions(tmp_path, monkeypatch):
    """Catches a revision that is dropped without a word, and recorded in reports and indexes all the same."""
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path)
    for source in ("m@v1", "./m@v1"):
        if split_revision(source)[1] is not None:
            with pytest.raises(CheckpointError, match="folders have no revisions"):
                locate(source)
    with pytest.raises(CheckpointError):
        locate("m@v1")


@pytest.mark.parametrize(("name", "content"), [("modules.json", '["x"]'), ("adapter_config.json", '["x"]')])
def test_malformed_lists_are_one_line(tmp_path, name, content):
    """Catches a traceback where a file holds other JSON than it should."""
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError):
        locate(tmp_path)
