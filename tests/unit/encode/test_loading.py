"""Loading model folders without transformers, and with it: the same model either way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, AutoTokenizer

import clipvip
from clipvip.encode import Encoder
from clipvip.errors import CheckpointError
from clipvip.model import AGGREGATORS, ClipVipConfig, ClipVipCore, ClipVipModel, ClipVipProcessor
from clipvip.model.tokenizer import read_folder_tokenizer
from helpers_model import TEXTS, write_model
from helpers_stored import STORED_FINGERPRINT, unpack_stored
from helpers_video import write_video


def through_transformers(folder: Path) -> Encoder:
    return Encoder(AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder))


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_both_ways_give_the_same_model(aggregator: str, tmp_path: Path) -> None:
    """Catches another fingerprint, or other bits of an embedding, where transformers is left out."""
    folder = write_model(tmp_path / "model", aggregator=aggregator)
    video = write_video(tmp_path / "a.mp4", 12)
    ours, theirs = clipvip.load(folder, device="cpu", optimize=False), through_transformers(folder)
    assert type(ours.model) is ClipVipCore
    assert type(theirs.model) is ClipVipModel
    assert ours.fingerprint == theirs.fingerprint
    assert np.array_equal(ours.encode_texts(TEXTS), theirs.encode_texts(TEXTS))
    assert np.array_equal(ours.encode_videos([video]), theirs.encode_videos([video]))


def test_a_model_that_was_stored_long_ago_is_the_same(tmp_path: Path) -> None:
    """Catches a change that makes every stored index one of another model."""
    folder = unpack_stored(tmp_path) / "model"
    assert clipvip.load(folder, device="cpu").fingerprint == STORED_FINGERPRINT
    assert through_transformers(folder).fingerprint == STORED_FINGERPRINT


def test_neither_transformers_nor_the_compiler_is_imported(tmp_path: Path) -> None:
    """Catches seconds of start-up for a library that inference does not need."""
    folder, video = write_model(tmp_path / "model"), write_video(tmp_path / "a.mp4", 12)
    script = (
        "import sys; sys.modules['transformers'] = None; import clipvip, clipvip.model; "
        "from clipvip.model import ClipVipConfig, ClipVipCore, ClipVipProcessor; "
        f"enc = clipvip.load({str(folder)!r}, device='cpu'); "
        f"enc.encode_texts(['a']); enc.encode_videos([{str(video)!r}]); "
        "print([name for name in ('transformers.models', 'torch._dynamo', 'accelerate') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_the_package_imports_nothing_heavy() -> None:
    """Catches `import clipvip.model` that takes seconds and registers things nobody asked for."""
    script = "import sys, clipvip.model, clipvip.model.configuration_clipvip as c; c.ClipVipConfig(); "
    script += "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_folders_that_are_not_whole_are_named(tmp_path: Path) -> None:
    """Catches a traceback, a key that is passed over, or an error that names no file."""
    whole = load_file(write_model(tmp_path / "model") / "model.safetensors")
    folder = tmp_path / "model"
    for state, message in (
        ({name: value for name, value in whole.items() if name != "logit_scale"}, r"1 missing \(logit_scale\)"),
        (whole | {"surprise": torch.zeros(2)}, r"1 left over \(surprise\)"),
        (whole | {"logit_scale": torch.zeros(2)}, r"1 of another shape \(logit_scale\)"),
    ):
        save_file(state, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=f"weights do not fit the model: {message}"):
            clipvip.load(folder, device="cpu")
    save_file(whole | {"vision_model.embeddings.position_ids": torch.zeros(1)}, folder / "model.safetensors")
    clipvip.load(folder, device="cpu")  # a buffer of older CLIP files
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no weights there \(looked for model.safetensors"):
        clipvip.load(folder, device="cpu")
    save_file(whole, folder / "model.safetensors")
    edit(folder / "config.json", num_frames="four")
    with pytest.raises(CheckpointError, match=r"no usable model there: .*num_frames"):
        clipvip.load(folder, device="cpu")
    edit(folder / "config.json", num_frames=4, aggregator="best")
    with pytest.raises(CheckpointError, match=r"model: no usable model there: aggregator='best'"):
        clipvip.load(folder, device="cpu")
    edit(folder / "config.json", aggregator="vip")
    towers = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"num_attention_heads": 5}, r"text_config.hidden_size=32 is not a multiple of num_attention_heads=5"),
        ({"num_attention_heads": 0}, r"text_config.num_attention_heads=0: must be at least 1"),
        ({"hidden_size": -32}, r"text_config.hidden_size=-32: must be at least 1"),
        ({"hidden_act": "best"}, r"text_config.hidden_act='best': choose one of"),
    ):
        edit(folder / "config.json", text_config=towers["text_config"] | change)
        for load in (clipvip.load, ClipVipConfig.from_pretrained):
            with pytest.raises(CheckpointError, match=message):
                load(folder)
    edit(folder / "config.json", text_config=towers["text_config"])
    for content in ("[1]", "nothing"):
        (folder / "config.json").write_text(content)
        with pytest.raises(CheckpointError):
            ClipVipConfig.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(towers))
    for name, content in (("tokenizer.json", "{}"), ("tokenizer_config.json", "[]"), ("processor_config.json", "[]")):
        before = (folder / name).read_text()
        (folder / name).write_text(content)
        with pytest.raises(CheckpointError, match=rf"{name}|no CLIP tokeniser there"):
            clipvip.load(folder, device="cpu")
        (folder / name).write_text(before)


def nothing_changed(folder: Path) -> None:
    pass


def other_padding(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", pad_token="!")


def other_padding_in_a_file_of_its_own(folder: Path) -> None:
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))


def no_normalizer(folder: Path) -> None:
    edit(folder / "tokenizer.json", normalizer=None)


def no_post_processor(folder: Path) -> None:
    edit(folder / "tokenizer.json", post_processor=None)


CHANGES = [nothing_changed, other_padding, other_padding_in_a_file_of_its_own, no_normalizer, no_post_processor]


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_transformers_reads_otherwise_are_left_to_it(change: Callable[[Path], None], tmp_path: Path) -> None:
    """Catches a folder that is another model without transformers than with it, so that its index is refused."""
    folder = write_model(tmp_path / "model")
    change(folder)
    assert (read_folder_tokenizer(folder) is not None) == (change is nothing_changed)
    processor = ClipVipProcessor(AutoTokenizer.from_pretrained(folder), num_frames=4, image_size=32, max_text_tokens=32)
    expected = Encoder(ClipVipModel.from_pretrained(folder).eval(), processor)
    found = clipvip.load(folder, device="cpu", optimize=False)
    assert found.fingerprint == expected.fingerprint
    assert np.array_equal(found.encode_texts(TEXTS), expected.encode_texts(TEXTS))


def test_weights_in_several_files_and_in_half_precision(tmp_path: Path) -> None:
    """Catches a loader that reads one file only, or leaves weights in what the file has."""
    folder = write_model(tmp_path / "model")
    expected = clipvip.load(folder, device="cpu", optimize=False)
    ClipVipModel.from_pretrained(folder).save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    ClipVipProcessor.from_pretrained(folder).save_pretrained(tmp_path / "parts")
    assert (tmp_path / "parts" / "model.safetensors.index.json").exists()
    parts = clipvip.load(tmp_path / "parts", device="cpu", optimize=False)
    assert parts.fingerprint == expected.fingerprint
    ClipVipModel.from_pretrained(folder).half().save_pretrained(tmp_path / "half")
    ClipVipProcessor.from_pretrained(folder).save_pretrained(tmp_path / "half")
    assert clipvip.load(tmp_path / "half", device="cpu", optimize=False).model.dtype == torch.float32


def test_a_configuration_goes_through_its_file(tmp_path: Path) -> None:
    """Catches keys of CLIP's files that are lost because the model does not read them."""
    config = ClipVipConfig(text_config={"initializer_range": 0.5}, aggregator="full", num_frames=7)
    config.save_pretrained(tmp_path)
    again = ClipVipConfig.from_pretrained(tmp_path)
    assert again == config
    assert json.loads((tmp_path / "config.json").read_text())["text_config"]["initializer_range"] == 0.5
    assert ClipVipModel.config_class.of_core(again).text_config.initializer_range == 0.5


def test_plain_clip_keeps_its_temperature(tmp_path: Path) -> None:
    """Catches a learned temperature that inference replaces by the one training starts with."""
    from transformers import CLIPConfig, CLIPModel

    from helpers_golden import golden_config

    ours = golden_config()
    towers = {name: getattr(ours, name).to_dict() for name in ("text_config", "vision_config")}
    clip = CLIPModel(CLIPConfig(**towers, projection_dim=32, logit_scale_init_value=3.25))
    clip.save_pretrained(tmp_path)
    assert ClipVipModel.from_clip(tmp_path, aggregator="mean", logit_scale=None).logit_scale.item() == 3.25
    assert ClipVipModel.from_clip(tmp_path, aggregator="mean").logit_scale.item() == pytest.approx(4.60)
