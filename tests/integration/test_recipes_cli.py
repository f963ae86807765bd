"""Each kind of recipe takes three steps through the command line, and `train --list` tells what there is."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from clipvip.training.recipes import list_recipes
from clipvip.training.state import WorkDir
from helpers_cli import run_here
from helpers_world import write_tiny_world

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
SHORT = ["train.epochs=null", "train.steps=3", "train.batch_size=8", "train.log_every=1", "data.num_workers=0"]
TINY = [
    f"model.architecture.{tower}.{key}={value}"
    for tower in ("text_config", "vision_config")
    for key, value in SIZES.items()
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world with image-text weights of its own, `clip/`, in the place of OpenAI's."""
    folder = write_tiny_world(tmp_path_factory.mktemp("world"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = {**SIZES, **special, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    vision = {**SIZES, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    clip.save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    return folder


def trained(workdir: Path, recipe: str, world: Path, *overrides: str) -> list[dict[str, float]]:
    """Three steps of a recipe, told what it leaves open unless `overrides` do; the log lines."""
    told = {override.partition("=")[0] for override in overrides}
    pretraining = recipe.startswith(("pretrain/", "scratch/", "demo/pretrain", "small/pretrain", "small/scratch"))
    defaults = {
        "model.init": world / "clip",
        "data.train": world / ("pretrain.jsonl" if pretraining else "retrieval.jsonl"),
    }
    if {"model.tokenizer", "model.init"} & told:
        del defaults["model.init"]
    open_fields = [f"{field}={value}" for field, value in defaults.items() if field not in told]
    assert run_here("train", recipe, *open_fields, *SHORT, *overrides, "--workdir", workdir) == 0
    rows = [row for row in WorkDir(workdir).read_log() if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(math.isfinite(row["loss"]) for row in rows)
    return rows


def made(workdir: Path) -> dict[str, object]:
    """The configuration of the model that a run has left."""
    config: dict[str, object] = json.loads((workdir / "model" / "config.json").read_text())
    return config


def test_warm_start_from_scratch(world: Path, tmp_path: Path) -> None:
    """Catches a first stage that cannot start without weights, and whose result the next one cannot start from."""
    images = f"data.train={world / 'images.jsonl'}"
    trained(tmp_path / "w", "demo/warmstart", world, f"model.tokenizer={world / 'tokenizer'}", images)
    assert made(tmp_path / "w")["aggregator"] == "mean"
    trained(tmp_path / "p", "demo/pretrain", world, f"model.init={tmp_path / 'w' / 'model'}")
    assert made(tmp_path / "p")["aggregator"] == "vip"


def test_post_pre_training_with_each_loss_and_each_kind_of_data(world: Path, tmp_path: Path) -> None:
    """Catches a recipe that cannot run, or that trains on the same as another: a variant or a text field not heard."""
    images = world / "images.jsonl"
    runs = {f"loss-{variant}": [] for variant in ("vs", "vs+fc", "vs+vc", "vs+vc+fc", "vsc", "vsc+fc")}
    runs |= {"data-captions": [], "data-images": [f"data.train={images}"]}
    runs |= {"data-both+images": [f"data.mix.0.data={images}", "data.mix.0.share=0.5"], "scale-hdvila10m": []}
    losses = {
        name: [row["loss"] for row in trained(tmp_path / name, f"pretrain/{name}", world, *overrides)]
        for name, overrides in runs.items()
    }
    for name, values in losses.items():
        same = [other for other in losses if other != name and losses[other] == values]
        assert not same, f"{name} trained as {same} did"
    assert made(tmp_path / "scale-hdvila10m")["aggregator"] == "mean"
    resolved = yaml.safe_load((tmp_path / "data-both+images" / "recipe.yaml").read_text())
    assert resolved["data"]["mix"][0]["data"] == str(images)
    assert resolved["loss"]["variant"] == "vsc+fc"


def test_without_clips_weights(world: Path, tmp_path: Path) -> None:
    """Catches recipes that still ask for an init, or whose architecture does not fit their texts."""
    tokenizer = f"model.tokenizer={world / 'tokenizer'}"
    trained(tmp_path / "s", "scratch/b32", world, tokenizer, *TINY, "model.architecture.projection_dim=16")
    config = made(tmp_path / "s")
    assert config["vision_config"]["patch_size"] == 32  # type: ignore[index]
    assert config["num_proxies"] == 4
    trained(tmp_path / "t", "small/scratch", world, tokenizer)
    assert made(tmp_path / "t")["aggregator"] == "vip"


def test_fine_tuning_on_captions_and_on_paragraphs(world: Path, tmp_path: Path) -> None:
    """Catches paragraphs that are joined in validation only, in training only, or not at all."""
    validate = [f"data.val={world / 'retrieval.jsonl'}", "data.val_split=train"]  # three captions a clip there
    joined = trained(tmp_path / "joined", "finetune/didemo-b32", world, *validate)
    drawn = trained(tmp_path / "drawn", "finetune/didemo-b32", world, *validate, "data.join_captions=false")
    assert joined[0]["loss"] != drawn[0]["loss"]
    ranks = [
        next(row["val_MnR"] for row in WorkDir(tmp_path / name).read_log() if "val_MnR" in row)
        for name in ("joined", "drawn")
    ]
    assert ranks[0] != ranks[1]
    plain = trained(tmp_path / "plain", "finetune/msrvtt-b32", world, *validate)
    assert [row["loss"] for row in plain] == [row["loss"] for row in drawn]  # 3 steps of either are the same run


def test_longer_videos_than_in_post_pre_training(world: Path, tmp_path: Path) -> None:
    """Catches a fine-tuning with more frames that refuses, or rebuilds, the model it starts from."""
    trained(tmp_path / "p", "pretrain/loss-vs", world)
    trained(tmp_path / "f", "finetune/activitynet-b32", world, f"model.init={tmp_path / 'p' / 'model'}")
    assert made(tmp_path / "f")["num_frames"] == 12  # rows of the embedding, interpolated
    processor = json.loads((tmp_path / "f" / "model" / "processor_config.json").read_text())
    assert processor["num_frames"] == 32


@pytest.mark.parametrize("name", ["mean", "transformer", "full", "vip1", "vip2", "vip8"])
def test_each_way_from_frames_to_a_feature(name: str, world: Path, tmp_path: Path) -> None:
    """Catches an aggregator or a number of proxies that its recipe does not bring about."""
    trained(tmp_path / "run", f"aggregator/{name}", world)
    config = made(tmp_path / "run")
    assert config["aggregator"] == name.rstrip("128")
    assert config["num_proxies"] == (int(name[3:]) if name.startswith("vip") else 1)


def test_released_form_of_a_recipe(world: Path, tmp_path: Path) -> None:
    """Catches a profile that names the run and does not change it: the released loss is a plain sum."""
    ours = trained(tmp_path / "ours", "finetune/msrvtt-b32", world, "train.precision=float32", "model.resize_in=tensor")
    theirs = trained(tmp_path / "theirs", "finetune/msrvtt-b32@released", world, "model.proxy_init=class")
    assert theirs[0]["loss"] == pytest.approx(2 * ours[0]["loss"], rel=1e-5)
    resolved = yaml.safe_load((tmp_path / "theirs" / "recipe.yaml").read_text())
    assert resolved["profile"] == "released"
    assert resolved["model"]["max_text_tokens"] == 50
    assert resolved["optim"]["decay"] == "released"


def test_figures_may_change_between_two_starts_of_a_run(world: Path, tmp_path: Path) -> None:
    """Catches a run that cannot go on because its recipe now tells our figure."""
    trained(tmp_path / "run", "finetune/msrvtt-b32", world)
    told = ["ours=t2v R@1 12.3", "paper=other", "hardware=other", "about=other"]
    trained(tmp_path / "run", "finetune/msrvtt-b32", world, *told)


def test_what_is_left_open_is_asked_for(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an error that names a field and not what belongs there."""
    train = f"data.train={world / 'images.jsonl'}"
    for recipe, given, asked in (
        ("finetune/msrvtt-b32", [train], "model.init is not set (a post-pre-trained model"),
        ("scratch/b16", [train], "model.tokenizer is not set (CLIP's tokeniser"),
        ("finetune/msrvtt-b32", [], "field 'data.train' is missing (manifest or shards"),
        ("pretrain/data-both+images", [train], "field 'data.mix.0.data' is missing (image-text sets such as"),
    ):
        assert run_here("train", recipe, *given, "--workdir", tmp_path / "run") == 2
        assert asked in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def listed(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clipvip", "train", "--list", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_list_shows_all_of_every_recipe() -> None:
    """Catches a recipe without its command or figures, a command broken over lines, and colour codes in pipes."""
    done = listed()
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    for name in list_recipes():
        [at] = [number for number, line in enumerate(lines) if line.startswith(f"  {name}: ")]
        command = lines[at + 1]
        assert command.startswith(f"    clipvip train {name} ")
        assert command.endswith(" --workdir DIR")
        told = next(line for line in lines[at + 2 :] if line.startswith("    batch "))
        for part in ("hardware: ", "paper: ", "ours: "):
            assert part in told
    assert "@released also: model.max_text_tokens 70 -> 50" in done.stdout
    rows = json.loads(listed("--json").stdout)
    assert [row["name"] for row in rows] == list(list_recipes())
    assert all(row["released"]["loss.reduction"] == {"clipvip": "mean", "released": "sum"} for row in rows)


def test_one_recipe_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches settings that are not those of the run, overrides not heard, and lists of what does not exist."""
    assert run_here("train", "--list", "finetune/didemo-b32@released", "optim.lr=2e-6") == 0
    told = capsys.readouterr().out
    assert "clipvip train finetune/didemo-b32@released optim.lr=2e-6 model.init=INIT data.train=TRAIN" in told
    settings = dict(line.split(None, 1) for line in told.splitlines() if line.startswith("  ") and " " in line.strip())
    assert settings["optim.lr"] == "2e-06"
    assert settings["loss.reduction"] == "mean -> sum"  # the last part of the listing: what the profile changes
    assert settings["model.max_text_tokens"] == "70 -> 50"
    assert run_here("train", "--list", "finetune/didemo-b32", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["settings"]["data.join_captions"] is True
    assert row["paper"].startswith("t2v R@1 48.6")
    for arguments, message in (
        (["finetune/didemo"], "did you mean 'finetune/didemo-b"),
        (["finetune/didemo-b32@relased"], "did you mean 'finetune/didemo-b32@released'"),
        (["finetune/didemo-b32", "--workdir", "x"], "leave out --workdir"),
    ):
        assert run_here("train", "--list", *arguments) == 2
        assert message in capsys.readouterr().err
