"""Whatever is wrong with a checkpoint: one clear error, no code run, nothing guessed."""

from __future__ import annotations

import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from clipvip.checkpoints import convert_checkpoint
from clipvip.errors import CheckpointError, UsageError
from helpers_golden import golden_model, tensors
from helpers_openai import Sizes, make_state

HEADS = {"vision_heads": 4, "text_heads": 3}
RELEASED_HEADS = {"vision_heads": 4, "text_heads": 4}
State = dict[str, Any]


def openai_state() -> dict[str, Tensor]:
    return make_state(Sizes(layers=3))


def released() -> dict[str, Tensor]:
    return dict(tensors("state_dict"))


def without(*parts: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if not any(part in key for part in parts)}


def with_(**changes: Any) -> Callable[[State], State]:
    return lambda state: state | {key.replace("__", "."): value for key, value in changes.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("visual.proj"), r"1 missing \(visual.proj\)"),
        (without("1.mlp.c_fc"), r"4 missing \(.*resblocks.1.mlp.c_fc.*, \.\.\.\)"),
        (without("visual.ln_post.bias"), r"1 missing \(visual.ln_post.bias\)"),
        (without("visual.conv1", "token_embedding"), r"2 missing \(visual.conv1.weight, token_embedding.weight\)"),
        (without("visual.transformer.resblocks.1."), "vision_model has layers with a gap: 2 of them.* no 1"),
        (without(".resblocks.0."), r"missing \(visual.transformer.resblocks.0.mlp.c_fc.weight"),
        (with_(visual__extra=torch.zeros(2)), r"1 left over \(visual.extra\)"),
        (with_(logit_bias=torch.zeros(())), r"1 left over \(logit_bias\)"),
        (with_(visual__proj=torch.zeros(16, 31)), "of another shape"),
        (with_(visual__ln_pre__bias=torch.zeros(31)), r"visual.ln_pre.bias \[31\], expected \[32\]"),
        (with_(text_projection=torch.zeros(24, 15)), r"text_projection \[24, 15\], expected \[24, 16\]"),
        (with_(visual__conv1__weight=torch.zeros(32, 3)), r"visual.conv1.weight \[32, 3\], expected 4 axes"),
        (with_(visual__conv1__weight=torch.zeros(32, 3, 4, 2)), "patches of 4 x 2"),
        (with_(visual__positional_embedding=torch.zeros(9, 32)), "has 9 rows"),
        (with_(visual__positional_embedding=torch.zeros(1, 32)), "has 1 rows"),
        (with_(token_embedding__weight=torch.zeros(0, 24)), "token_embedding.weight"),
        (with_(logit_scale=3.5), "'logit_scale' is a float"),
        (with_(logit_scale=torch.tensor(float("nan"))), "logit_scale holds NaN"),
        (with_(visual__ln_pre__bias=torch.zeros(32, dtype=torch.int64)), "visual.ln_pre.bias of torch.int64"),
        (with_(visual__ln_pre__bias=torch.zeros(32).to_sparse()), "sparse"),
        (with_(visual__ln_pre__bias=torch.zeros(32, device="meta")), "without values"),
        (with_(input_resolution=torch.tensor(224)), r"input_resolution is \[224\].*\[12\]"),
        (with_(vocab_size=torch.tensor(49408)), "vocab_size"),
        (lambda state: state | {"visual.proj\n": torch.zeros(1)}, r"'visual.proj\\n' is no parameter's name"),
        (lambda state: {0: torch.zeros(1)}, "0 is a Tensor"),
        (lambda state: {}, "holds nothing"),
        (lambda state: [1, 2], "holds a list"),
        (lambda state: {"weight": torch.zeros(2)}, "no known layout"),
        (lambda state: {"state_dict": {}, "epoch": 1}, "holds nothing"),
        (
            lambda state: {"model": state, "module": state},
            r"weights in several entries \(model, module\); save the one",
        ),
        (
            lambda state: {f"net.{key}": value for key, value in state.items()} | {"loss.scale": torch.zeros(1)},
            r"no known layout .* keys, those of 'net', look like one: save them alone, as \{k\[4:\]: v for",
        ),
    ],
)
def test_bad_openai_state_dicts(tmp_path: Path, change: Callable[[State], Any], message: str) -> None:
    """Catches a checkpoint that loads although something in it is missing, left over, or not what it should be."""
    changed = change(openai_state())
    if not isinstance(changed, list):
        with pytest.raises(CheckpointError, match=message):
            convert_checkpoint(changed, **HEADS)
    if "meta" not in message and "without values" not in message:
        torch.save(changed, tmp_path / "bad.pt")
        with pytest.raises(CheckpointError, match=message) as error:
            convert_checkpoint(tmp_path / "bad.pt", **HEADS)
        assert "bad.pt" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("post_layernorm.bias"), r"1 missing \(clipmodel.vision_model.post_layernorm.bias\)"),
        (without("class_embedding", "temporal"), r"missing \(clipmodel.vision_model.embeddings.class_embedding"),
        (with_(clipmodel__vision_model__embeddings__temporal_embedding=torch.zeros(4, 64)), "expected 3 axes"),
        (
            with_(clipmodel__vision_model__embeddings__temporal_embedding=torch.zeros(2, 4, 64)),
            r"expected \[1, 4, 64\]",
        ),
        (with_(clipmodel__vision_model__embeddings__added_cls=torch.zeros(3, 63)), r"expected \[3, 64\]"),
        (with_(clipmodel__vision_model__embeddings__added_cls=torch.zeros(())), "of another shape"),
        (with_(clipmodel__vision_model__embeddings__position_ids=torch.arange(16)[None]), "position_ids is"),
        (with_(clipmodel__text_model__embeddings__position_ids=torch.zeros(1, 77)), "position_ids is"),
        (with_(clipmodel__vision_model__embeddings__proxy_tokens=torch.zeros(3, 64)), "1 left over"),
        (with_(classifier__weight=torch.zeros(3, 64)), r"1 left over \(classifier.weight\)"),
        (without("layers.1."), "layers with a gap"),
    ],
)
def test_bad_released_state_dicts(change: Callable[[State], State], message: str) -> None:
    """Catches the released loader's habit of skipping keys silently, and buffers dropped without a look."""
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(change(released()), **RELEASED_HEADS)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"text_heads": 3}, CheckpointError, r"vision tower is 32 wide.* give vision_heads \(--vision-heads\)"),
        ({"vision_heads": 4}, CheckpointError, r"text tower is 24 wide.* give text_heads \(--text-heads\)"),
        ({}, CheckpointError, r"vision tower is 32 wide and .* 24 wide.* vision_heads .* and text_heads"),
        ({"vision_heads": 5, "text_heads": 3}, CheckpointError, "vision_heads=5 does not divide .* 32"),
        ({"vision_heads": 0, "text_heads": 3}, UsageError, "vision_heads=0"),
        ({**HEADS, "hidden_act": "relu"}, UsageError, "hidden_act='relu': choose quick_gelu or gelu"),
        ({**HEADS, "eos_token_id": 40}, CheckpointError, "eos_token_id=40"),
        ({**HEADS, "image_size": 14}, CheckpointError, "image_size=14 is no multiple of its patch size 4"),
        ({**HEADS, "image_size": -4}, UsageError, "image_size=-4"),
    ],
)
def test_bad_options(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    """Catches heads guessed for an unknown width, and options that no model can have."""
    with pytest.raises(kind, match=message):
        convert_checkpoint(openai_state(), **options)


class Code:
    """Pickled, this asks whoever loads it to make a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [0, 2, 4, "zip", "legacy"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, protocol: int | str) -> None:
    """Catches a loader that executes what it opens, whichever way it was saved."""
    file, trace = tmp_path / "bad.pt", tmp_path / "trace"
    content = {"visual.proj": Code(trace)}
    if isinstance(protocol, int):
        file.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=protocol == "zip")
    with pytest.raises(CheckpointError, match=r"bad.pt: its pickle holds code \(\w+.mkdir\), which was not executed"):
        convert_checkpoint(file)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Code(trace)))
    assert trace.exists()  # so it would have


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    """Catches the same by way of a model folder's pytorch_model.bin."""
    golden_model(torch.float32).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"logit_scale": Code(tmp_path / "trace")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        convert_checkpoint(tmp_path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_archive_says_how_to_go_on(tmp_path: Path) -> None:
    """Catches torch's own advice, to load OpenAI's download unsafely, passed on; the way out must really work."""
    file = tmp_path / "ViT-B-32.pt"
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(file)
    with pytest.raises(CheckpointError, match=r"TorchScript archive.*torch\.save\(torch\.jit\.load\(") as error:
        convert_checkpoint(file)
    advice = str(error.value).rpartition("convert that: ")[2].replace("'state_dict.pt'", repr(str(tmp_path / "out.pt")))
    exec(advice, {"torch": torch})
    assert torch.load(tmp_path / "out.pt").keys() == {"weight", "bias"}


def test_damaged_files(tmp_path: Path) -> None:
    """Catches a traceback, or weights, out of a file that is cut off, garbled or something else altogether."""
    random.seed(0)
    good, legacy, safe = (tmp_path / name for name in ("good.pt", "legacy.pt", "good.safetensors"))
    state = make_state(Sizes(vision_width=8, text_width=6, layers=1))
    torch.save(state, good)
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    save_file(state, safe)
    bad = [b"PK\x03\x04", b"<html>not found</html>", b"\x80\x02", random.randbytes(1000), pickle.dumps([1])]
    for file in (good, legacy, safe):
        whole = file.read_bytes()
        bad += [whole[: int(len(whole) * part)] for part in (0.01, 0.1, 0.5, 0.9, 0.999)]
        for _ in range(60):
            garbled = bytearray(whole)
            garbled[random.randrange(min(500, len(whole)))] ^= 1 << random.randrange(8)
            bad.append(bytes(garbled))
    refused = 0
    for i, content in enumerate(bad):
        file = tmp_path / f"bad{i}"
        file.write_bytes(content)
        message = None
        try:
            convert_checkpoint(file, vision_heads=2, text_heads=2)  # a flipped bit may well be harmless
        except CheckpointError as error:
            message = str(error)
        if message is not None:
            assert message.startswith(str(file))
            assert "\n" not in message
            refused += 1
    assert refused > 60


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pt", b"", "an empty file"),
        ("pointer.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ("note.txt", b"hello there", "not a checkpoint"),
        ("cut.safetensors", b"\x10\x00", "safetensors"),
        ("missing.pt", None, "no such file"),
        ("missing/deep/folder", None, "no such file"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    """Catches an error that does not say which file, or what is wrong with it."""
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    for source in (file, str(file)):
        with pytest.raises(CheckpointError, match=f"{name}.*{message}"):
            convert_checkpoint(source)


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    """Catches a traceback for an empty folder, or a model of another kind taken for CLIP."""
    with pytest.raises(CheckpointError, match="no usable model there"):
        convert_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="'bert' model"):
        convert_checkpoint(tmp_path)


def test_our_own_weights_without_their_folder(tmp_path: Path) -> None:
    """Catches our model.safetensors read as plain CLIP: aggregator and heads are in config.json only."""
    golden_model(torch.float32).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="name the folder"):
        convert_checkpoint(tmp_path / "model.safetensors", **RELEASED_HEADS)


def test_an_index_of_shards_that_is_damaged_or_reaches_elsewhere(tmp_path: Path) -> None:
    """Catches a file outside the folder read by way of an index, and shards of which one is missing or empty."""
    state = released()
    names = sorted(state)
    save_file({name: state[name].contiguous() for name in names[::2]}, tmp_path / "a.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    for content, message in [
        ("{", "no index of sharded weights"),
        ("[]", "no index of sharded weights"),
        (
            json.dumps({"weight_map": {"x": "../a.safetensors"}}),
            r"lists '../a.safetensors', which is no file beside it",
        ),
        (json.dumps({"weight_map": {"x": index.name}}), "which is no file beside it"),
        (json.dumps({"weight_map": dict.fromkeys(names, "b.safetensors")}), "b.safetensors: no such file"),
        (json.dumps({"weight_map": dict.fromkeys(names, "a.safetensors")}), "of its tensors are in none of its files"),
    ]:
        index.write_text(content)
        with pytest.raises(CheckpointError, match=message):
            convert_checkpoint(index, **RELEASED_HEADS)
