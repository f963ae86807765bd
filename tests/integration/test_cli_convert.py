"""`clipvip convert`, as a person types it: files of every format to folders that the other verbs open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

import clipvip
from clipvip.checkpoints import to_released
from clipvip.model import ClipVipModel
from clipvip.model.tokenizer import train_clip_tokenizer
from helpers_cli import run_here
from helpers_model import TEXTS, write_model
from helpers_openai import Sizes, encode_text, make_state
from helpers_video import write_video


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file or folder of each format, all with one small vocabulary; a video."""
    place = tmp_path_factory.mktemp("mein platz")
    tokenizer = train_clip_tokenizer(TEXTS)
    tokenizer.save_pretrained(place / "tokenizer")
    own = ClipVipModel.from_pretrained(write_model(place / "own"))
    with torch.no_grad():
        own.vision_model.embeddings.temporal_embedding.normal_()
    own.save_pretrained(place / "own")
    torch.save(to_released(own), place / "released.pt")
    torch.save(make_state(Sizes(vocabulary=len(tokenizer), positions=16)), place / "openai.pt")
    special = {"vocab_size": len(tokenizer), "bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1}
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1}
    clip = CLIPConfig(
        text_config={**sizes, **special, "pad_token_id": len(tokenizer) - 1, "max_position_embeddings": 16},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(clip).save_pretrained(place / "clip")
    tokenizer.save_pretrained(place / "clip")
    write_video(place / "video.mp4", 12)
    return place


def usable(folder: Path, place: Path) -> clipvip.Encoder:
    """The folder opens, and gives unit-norm embeddings of a real video and of texts."""
    encoder = clipvip.load(folder, device="cpu")
    for vectors in (encoder.encode_videos([place / "video.mp4"]), encoder.encode_texts(TEXTS)):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    return encoder


def test_released_file_there_and_back(place, tmp_path, capsys):
    """Catches a folder that other verbs cannot open or that embeds otherwise, and weights that change on the way."""
    folder, file = tmp_path / "deep" / "model", tmp_path / "back.pt"
    heads = ("--vision-heads", 2, "--text-heads", 2)
    made = run_here("convert", place / "released.pt", folder, "--processor", place / "tokenizer", *heads)
    told = capsys.readouterr().out
    assert made == 0
    assert "released" in told
    assert "2 dropped" in told
    encoder, original = usable(folder, place), clipvip.load(place / "own", device="cpu")
    np.testing.assert_allclose(
        encoder.encode_videos([place / "video.mp4"]), original.encode_videos([place / "video.mp4"]), atol=1e-6
    )
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), original.encode_texts(TEXTS), atol=1e-6)
    assert run_here("convert", folder, file, "--to", "released") == 0
    first, back = (torch.load(path, weights_only=True) for path in (place / "released.pt", file))
    assert back.keys() == first.keys()
    assert all(torch.equal(back[name], first[name]) for name in first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.pt", "deep"]  # nothing half-made is left
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_openai_file(place, tmp_path, capsys):
    """Catches a report that is no JSON or leaves keys out, and a folder whose texts embed otherwise than the file."""
    arguments = ("--processor", place / "tokenizer", "--vision-heads", 4, "--text-heads", 3, "--hidden-act", "gelu")
    assert run_here("convert", place / "openai.pt", tmp_path / "m", *arguments, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    state = torch.load(place / "openai.pt", weights_only=True)
    assert {key for key, _ in report["mapped"]} == state.keys()
    assert (report["format"], report["new"], report["dropped"], report["left_over"]) == ("open_clip", [], [], [])
    assert report["sizes"]["vision"] | {"image_size": 12, "patch_size": 4, "heads": 4} == report["sizes"]["vision"]
    encoder = usable(tmp_path / "m", place)
    tokens = encoder.processor.tokenize(TEXTS)["input_ids"]
    expected = torch.nn.functional.normalize(encode_text(state, tokens, 3, "gelu"), dim=-1)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), expected.numpy(), atol=1e-5)


def test_hugging_face_folder_needs_no_processor(place, tmp_path):
    """Catches a converted folder that embeds otherwise than loading the CLIP folder itself does."""
    assert run_here("convert", place / "clip", tmp_path / "m") == 0
    video = [place / "video.mp4"]
    expected = clipvip.load(place / "clip", device="cpu")
    converted = usable(tmp_path / "m", place)
    np.testing.assert_allclose(converted.encode_videos(video), expected.encode_videos(video), atol=1e-6)
    assert converted.fingerprint == expected.fingerprint


def test_another_image_size(place, tmp_path):
    """Catches a processor that goes on making the old size."""
    assert run_here("convert", place / "own", tmp_path / "m", "--image-size", 64) == 0
    assert usable(tmp_path / "m", place).processor.image_size == 64


def test_errors_are_one_line_with_the_right_code(place, tmp_path, monkeypatch, capsys):
    """Catches tracebacks, wrong exit codes, a target overwritten, and a half-made folder left behind."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("mine")
    (tmp_path / "file.pt").write_text("mine")
    torch.save({"visual.proj": os.system}, tmp_path / "code.pt")
    tokenizer = ("--processor", place / "tokenizer")
    heads = ("--vision-heads", 2, "--text-heads", 2)
    cases = [
        ((place / "released.pt", "new"), 2, "is a file, which has no tokeniser"),
        ((place / "released.pt", "new", *tokenizer), 1, "--vision-heads"),
        ((place / "released.pt", tmp_path / "full", *tokenizer, *heads), 2, "full exists"),
        ((place / "own", tmp_path / "file.pt", "--to", "released"), 2, "file.pt exists"),
        ((place / "own", tmp_path / "full", "--to", "released"), 2, "full exists"),
        ((place / "own", "new", "--to", "onnx"), 2, "--to onnx: choose clipvip or released"),
        ((place / "own", "new.pt", "--to", "released", *tokenizer), 2, "--processor has no use"),
        ((place / "clip", "new.pt", "--to", "released"), 1, "aggregator='mean'"),
        ((place / "own", "new", "--hidden-act", "relu"), 2, "choose quick_gelu or gelu"),
        ((place / "own", "new", "--image-size", 40), 1, "no multiple of its patch size 16"),
        ((place / "own", "new", "--eos-token-id", 3), 1, "end token"),
        (("missing.pt", "new", *tokenizer), 1, "missing.pt: no such file"),
        ((tmp_path / "code.pt", "new", *tokenizer), 1, "holds code"),
        ((place / "openai.pt", "new", *tokenizer, *heads, "--vision-heads", 5), 1, "vision_heads=5 does not divide"),
    ]
    monkeypatch.chdir(tmp_path)
    for arguments, code, message in cases:
        assert run_here("convert", *arguments) == code, arguments
        told = capsys.readouterr().err
        assert message in told, arguments
        assert "Traceback" not in told
        assert told.splitlines()[-1].startswith("clipvip: "), told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code.pt", "file.pt", "full"]
    assert (tmp_path / "full" / "kept.txt").read_text() == "mine"
    assert (tmp_path / "file.pt").read_text() == "mine"


def test_an_empty_folder_may_be_the_target(place, tmp_path):
    """Catches refusing a folder made in advance, and permissions narrower than other new folders have."""
    (tmp_path / "m").mkdir()
    mode = (tmp_path / "m").stat().st_mode
    assert run_here("convert", place / "own", tmp_path / "m") == 0
    assert (tmp_path / "m").stat().st_mode == mode
    usable(tmp_path / "m", place)


def test_a_kill_leaves_no_half_folder(place, tmp_path):
    """Catches a model folder that looks finished after the process was killed while writing it."""
    script = f"""
import os, signal, sys
from clipvip.model import ClipVipProcessor
ClipVipProcessor.save_pretrained = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = ["clipvip", "convert", {str(place / "own")!r}, "m"]
from clipvip.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "m").exists()


def test_help_has_an_example():
    """Catches a verb without help, or not registered."""
    done = subprocess.run(
        [sys.executable, "-m", "clipvip", "convert", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Example: clipvip convert" in done.stdout
