"""Models converted from every format give the outputs of the code their weights come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from clipvip.checkpoints import convert_checkpoint, read_checkpoint, to_released
from clipvip.checkpoints.convert import interpolate_positions
from clipvip.checkpoints.sizes import Wanted
from clipvip.errors import CheckpointError
from clipvip.model import ClipVipConfig, ClipVipModel
from clipvip.model.configuration_clipvip import VisionConfig
from helpers_golden import golden, golden_model, tensors
from helpers_openai import Sizes, encode_image, encode_text, make_state

HEADS = {"vision_heads": 4, "text_heads": 4}
SIZES = Sizes()
TEXTS = torch.tensor([[38, 5, 7, 39, 39], [38, 1, 2, 3, 39]])
EMBEDDINGS = "vision_model.embeddings"


def released() -> dict[str, Tensor]:
    return dict(tensors("state_dict"))


def images(sizes: Sizes = SIZES) -> Tensor:
    return torch.randn(2, 3, sizes.pixels, sizes.pixels, generator=torch.Generator().manual_seed(1))


def assert_same_as_openai(
    model: ClipVipModel, state: dict[str, Tensor], hidden_act: str, sizes: Sizes = SIZES, atol: float = 1e-5
) -> None:
    state = {name: value.float() for name, value in state.items()}
    with torch.no_grad():
        ours = model.encode_video(images(sizes), normalize=False), model.encode_text(TEXTS, normalize=False)
    expected_image = encode_image(state, images(sizes), sizes.vision_heads, hidden_act)
    torch.testing.assert_close(ours[0], torch.nn.functional.normalize(expected_image, dim=-1), atol=atol, rtol=0)
    torch.testing.assert_close(ours[1], encode_text(state, TEXTS, sizes.text_heads, hidden_act), atol=atol, rtol=1e-5)
    assert model.logit_scale.item() == pytest.approx(state["logit_scale"].item())


# released CLIP-ViP


def test_released_layout_gives_the_recorded_outputs() -> None:
    """Catches a released tensor that lands in the wrong place: outputs, not names, are compared."""
    model = convert_checkpoint(released(), **HEADS).double()
    assert not model.training
    names = [f"vision.T{t}.embeds" for t in (1, 2, 4, 7)] + [f"text.{case}.embeds" for case in ("padeos", "long70")]
    for name in names:
        inputs = name.removesuffix("embeds")
        with torch.no_grad():
            if name.startswith("vision"):
                ours = model.encode_video(tensors()[f"{inputs}pixel_values"].double())
            else:
                ours = model.encode_text(tensors()[f"{inputs}input_ids"], tensors()[f"{inputs}attention_mask"])
        tolerance = 10 * golden()["fp32_vs_fp64_max_abs_diff"][name]
        torch.testing.assert_close(ours, tensors()[name].double(), atol=tolerance, rtol=0)


def test_released_sizes_and_report() -> None:
    """Catches sizes not read off the tensors, and keys that vanish without a word."""
    converted = read_checkpoint(released(), Wanted(**HEADS))
    config, report = converted.model.config, converted.report
    assert (config.aggregator, config.num_frames, config.num_proxies) == ("vip", 4, 4)
    assert (config.vision.image_size, config.vision.patch_size, config.vision.num_hidden_layers) == (32, 8, 3)
    assert (config.text.vocab_size, config.text.eos_token_id, config.text.hidden_act) == (100, 99, "quick_gelu")
    assert {key for key, _ in report.mapped} | set(report.dropped) == released().keys()
    assert {name for _, name in report.mapped} == converted.model.state_dict().keys()
    assert report.dropped == tuple(f"clipmodel.{tower}_model.embeddings.position_ids" for tower in ("text", "vision"))
    assert report.format == "released"
    assert report.new == report.left_over == ()


def test_round_trip_to_the_released_layout_is_exact() -> None:
    """Catches a tensor that changes, in value, shape, type or name, on the way there and back."""
    state = released()
    back = to_released(convert_checkpoint(state, **HEADS))
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert (back[name].dtype, back[name].shape) == (value.dtype, value.shape), name
        assert torch.equal(back[name], value), name


@pytest.mark.parametrize(("num_frames", "num_proxies", "patch"), [(12, 4, 16), (32, 2, 8), (1, 1, 4)])
def test_released_files_of_other_sizes(num_frames: int, num_proxies: int, patch: int) -> None:
    """Catches a size taken for granted, B/32's or 12 frames; a file without added_cls means one proxy."""
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 40}
    config = ClipVipConfig(
        text_config={**sizes, "num_hidden_layers": 1, "vocab_size": 30, "max_position_embeddings": 9}
        | {"bos_token_id": 28, "eos_token_id": 29, "pad_token_id": 29},
        vision_config={**sizes, "num_hidden_layers": 2, "image_size": 48, "patch_size": patch},
        projection_dim=20,
        num_frames=num_frames,
        num_proxies=num_proxies,
    )
    model = ClipVipModel(config)
    state = to_released(model)
    assert ("clipmodel.vision_model.embeddings.added_cls" in state) == (num_proxies > 1)
    again = convert_checkpoint(state, vision_heads=2, text_heads=2)
    assert VisionConfig.of(again.config.vision_config).to_dict().items() >= config.vision_config.to_dict().items()
    assert (again.config.num_frames, again.config.num_proxies) == (num_frames, num_proxies)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_released_restart_file_and_empty_added_cls() -> None:
    """Catches refusing what the released code really saves: half-precision restart files, zero added proxies."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in released().items()}
    state["clipmodel.vision_model.embeddings.added_cls"] = torch.empty(0, 64)
    wrapped = {"global_step": 7, "model_state_dict": state, "optim_state_dict": {}}
    converted = read_checkpoint(wrapped, Wanted(**HEADS))
    assert converted.model.config.num_proxies == 1
    assert converted.model.dtype == torch.float32
    assert any("model_state_dict" in note and "global_step" in note for note in converted.report.notes)
    assert any("float16" in note for note in converted.report.notes)


@pytest.mark.parametrize("num_added", [3, 0])
def test_released_file_without_a_temporal_embedding(num_added: int) -> None:
    """Catches a released run without temporal embedding ("if_use_temporal_embed": 0) that does not convert."""
    key = "clipmodel.vision_model.embeddings.temporal_embedding"
    state = {**released(), "clipmodel.vision_model.embeddings.added_cls": torch.randn(num_added, 64)}
    converted = read_checkpoint({name: value for name, value in state.items() if name != key}, Wanted(**HEADS))
    assert converted.report.new == ("vision_model.embeddings.temporal_embedding",)
    assert "vision_model.embeddings.temporal_embedding" not in {name for _, name in converted.report.mapped}
    assert any("without a temporal embedding" in note for note in converted.report.notes)
    assert (converted.model.config.aggregator, converted.model.config.num_proxies) == ("vip", 1 + num_added)
    zeros = convert_checkpoint({**state, key: torch.zeros_like(state[key])}, **HEADS)
    pixels = torch.randn(2, 5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(converted.model.encode_video(pixels), zeros.encode_video(pixels))


def test_released_file_that_was_trained_as_mean_pool(tmp_path: Path) -> None:
    """Catches a released run of another type than "ViP" that does not convert, or becomes a model with proxies."""
    clip = write_clip(tmp_path / "clip")
    state = {f"clipmodel.{name}": value for name, value in clip.state_dict().items()}
    converted = read_checkpoint(state, Wanted(vision_heads=4, text_heads=3))
    assert (converted.report.format, converted.report.new) == ("released", ())
    assert converted.model.config.aggregator == "mean"
    assert not any("assumed" in note for note in converted.report.notes)
    assert_same_as_clip(converted.model, clip)


WRAPPINGS: dict[str, Any] = {
    "model": lambda state: {"model": state, "epoch": 3},
    "deepspeed": lambda state: {"module": state, "optimizer": {}, "global_steps": 7},
    "lightning": lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}, "hyper_parameters": {}},
    "lightning, clip": lambda state: {"state_dict": {f"clip.{k}": v for k, v in state.items()}},
    "compiled": lambda state: {f"_orig_mod.module.{k}": v for k, v in state.items()},
    "all": lambda state: {"model": {"state_dict": {f"module._orig_mod.model.clip.{k}": v for k, v in state.items()}}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("layout", ["released", "openai"])
def test_training_checkpoints_are_unwrapped(wrapping: str, layout: str, tmp_path: Path) -> None:
    """Catches a training framework's wrapping, or a combination of several, that is refused although it is clear."""
    heads = HEADS if layout == "released" else {"vision_heads": 4, "text_heads": 3}
    state = released() if layout == "released" else make_state(SIZES)
    file = tmp_path / "last.ckpt"
    torch.save(WRAPPINGS[wrapping](state), file)
    converted = read_checkpoint(file, Wanted(**heads))
    plain = convert_checkpoint(state, **heads).state_dict()
    assert all(torch.equal(converted.model.state_dict()[name], value) for name, value in plain.items())
    assert any("entry" in note or "taken off every key" in note for note in converted.report.notes)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_sharded_weights(suffix: str, tmp_path: Path) -> None:
    """Catches an index of shards read as a checkpoint, and a folder with one that loses a shard."""
    state = {name: value.contiguous() for name, value in released().items()}
    names = sorted(state)
    files = {name: f"part-{number % 3}.{suffix}" for number, name in enumerate(names)}
    for file in set(files.values()):
        part = {name: state[name] for name in names if files[name] == file}
        save_file(part, tmp_path / file) if suffix == "safetensors" else torch.save(part, tmp_path / file)
    index = tmp_path / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    whole, sharded = (convert_checkpoint(source, **HEADS).state_dict() for source in (state, index))
    assert all(torch.equal(sharded[name], value) for name, value in whole.items())


def test_only_vip_models_have_a_released_layout() -> None:
    """Catches a frame-wise model written as a released file whose temporal embedding is made up."""
    with pytest.raises(CheckpointError, match="aggregator='mean'"):
        to_released(convert_checkpoint(make_state(SIZES), vision_heads=4, text_heads=3))


def test_nothing_is_shared_or_drawn() -> None:
    """Catches weights that change with the caller's tensors, and a conversion that moves the random generator."""
    state, before = make_state(SIZES), torch.get_rng_state()
    model = convert_checkpoint(state, vision_heads=4, text_heads=3)
    assert torch.equal(torch.get_rng_state(), before)
    for value in state.values():
        value.zero_()
    assert all(value.any() for value in model.state_dict().values())
    assert all(parameter.requires_grad for parameter in model.parameters())


# Hugging Face CLIP


def write_clip(folder: Path, **changes: Any) -> CLIPModel:
    """A random CLIP as transformers saves it. changes: of the vision tower, or with "text_" in front of the text's."""
    text = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "num_hidden_layers": 2}
    text |= {"vocab_size": 40, "max_position_embeddings": 8, "bos_token_id": 38, "eos_token_id": 39, "pad_token_id": 39}
    vision = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 2}
    vision |= {"image_size": 12, "patch_size": 4}
    text |= {key.removeprefix("text_"): value for key, value in changes.items() if key.startswith("text_")}
    vision |= {key: value for key, value in changes.items() if not key.startswith("text_")}
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    with torch.no_grad():
        for parameter in clip.parameters():  # CLIP's own start is so small that mistakes would hide
            parameter.normal_(std=0.5 if parameter.ndim < 2 else parameter[0].numel() ** -0.5)
        clip.logit_scale.fill_(3.25)
    clip.save_pretrained(folder)
    return clip


def assert_same_as_clip(model: ClipVipModel, clip: CLIPModel) -> None:
    size = clip.config.vision_config.image_size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        image = clip.get_image_features(pixels).pooler_output
        text = clip.get_text_features(TEXTS).pooler_output
        ours = model.encode_video(pixels), model.encode_text(TEXTS)
    torch.testing.assert_close(ours[0], torch.nn.functional.normalize(image, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[1], torch.nn.functional.normalize(text, dim=-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_hugging_face_folder(tmp_path: Path, hidden_act: str) -> None:
    """Catches config.json's choices ignored, or its temperature reset as a start of training would."""
    clip = write_clip(tmp_path, hidden_act=hidden_act, text_hidden_act=hidden_act)
    converted = read_checkpoint(tmp_path)
    assert converted.report.format == "huggingface"
    assert converted.model.config.aggregator == "mean"
    assert converted.model.logit_scale.item() == 3.25
    assert_same_as_clip(converted.model, clip)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_hugging_face_weights_alone(tmp_path: Path, suffix: str) -> None:
    """Catches sizes that only a config.json gives, and the position_ids that older files carry."""
    clip = write_clip(tmp_path / "folder")
    state = {name: value.clone() for name, value in clip.state_dict().items()}
    state |= {"text_model.embeddings.position_ids": torch.arange(8)[None]}
    file = tmp_path / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    converted = read_checkpoint(file, Wanted(vision_heads=4, text_heads=3))
    assert converted.report.dropped == ("text_model.embeddings.position_ids",)
    assert converted.model.logit_scale.item() == 3.25
    assert_same_as_clip(converted.model, clip)


def test_placeholder_end_token_of_a_folder(tmp_path: Path) -> None:
    """Catches pooling at id 2, the meaningless end token in the configuration of OpenAI's own folders."""
    write_clip(tmp_path, text_eos_token_id=2)
    assert convert_checkpoint(tmp_path).config.text.eos_token_id == 39


def test_what_is_given_wins_over_config_json(tmp_path: Path) -> None:
    """Catches an option that is accepted and ignored for folders."""
    write_clip(tmp_path)
    converted = read_checkpoint(tmp_path, Wanted(vision_heads=8, hidden_act="gelu", eos_token_id=7))
    config = converted.model.config
    assert (config.vision.num_attention_heads, config.vision.hidden_act, config.text.hidden_act) == (8, "gelu", "gelu")
    assert config.text.eos_token_id == 7
    assert len(converted.report.notes) == 3


def test_own_folder_loads_as_it_is(tmp_path: Path) -> None:
    """Catches a model of ours that its own tool cannot read, and so not export."""
    model = golden_model(torch.float32)
    model.save_pretrained(tmp_path)
    converted = read_checkpoint(tmp_path)
    assert converted.report.format == "clipvip"
    back = to_released(converted.model)
    assert all(torch.equal(back[name], value) for name, value in released().items())


# OpenAI and open_clip


def archive(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As OpenAI's archives are: matrices in half precision, three scalars beside the weights."""
    scalars = {"input_resolution": 12, "context_length": 8, "vocab_size": 40}
    halved = {name: value.half() if value.ndim > 1 else value for name, value in state.items()}
    return halved | {name: torch.tensor(value) for name, value in scalars.items()}


def custom_text(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As open_clip's models with a text tower of its own are."""
    same = ("visual.", "logit_scale")
    return {name if name.startswith(same) else f"text.{name}": value for name, value in state.items()}


def training_checkpoint(state: dict[str, Tensor]) -> dict[str, Any]:
    """As open_clip's distributed training saves it."""
    return {"epoch": 3, "name": "run", "state_dict": {f"module.{k}": v for k, v in state.items()}, "optimizer": {}}


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("variant", [dict, archive, custom_text, training_checkpoint])
def test_openai_layouts(tmp_path: Path, variant: Any, hidden_act: str) -> None:
    """Catches query, key and value mixed up, a projection not transposed, a prefix or wrapper not taken off."""
    state = make_state(SIZES)
    file = tmp_path / "weights.pt"
    torch.save(variant(state), file)
    converted = read_checkpoint(file, Wanted(vision_heads=4, text_heads=3, hidden_act=hidden_act))
    assert converted.report.format == ("openai" if variant is archive else "open_clip")
    assert converted.report.dropped == (
        ("input_resolution", "context_length", "vocab_size") if variant is archive else ()
    )
    used = {name: value.half() if variant is archive and value.ndim > 1 else value for name, value in state.items()}
    assert_same_as_openai(converted.model, used, hidden_act)


def test_assumed_activation_is_told() -> None:
    """Catches a silent guess: no state dict says which activation it was trained with."""
    heads = {"vision_heads": 4, "text_heads": 3}
    state = make_state(SIZES)
    assert convert_checkpoint(state, **heads).config.vision.hidden_act == "quick_gelu"
    assert "quick_gelu assumed" in read_checkpoint(state, Wanted(**heads)).report.notes[0]
    assert not any("assumed" in note for note in read_checkpoint(archive(state), Wanted(**heads)).report.notes)
    assert not read_checkpoint(state, Wanted(**heads, hidden_act="gelu")).report.notes


def test_huge_models_have_their_heads_and_activation() -> None:
    """Catches width / 64 taken for the number of heads: ViT-H has 16 heads of 80, and the exact GELU in open_clip."""
    sizes = Sizes(1280, 1024, 16, 16, layers=1, patch=14, grid=2)
    state = make_state(sizes)
    converted = read_checkpoint(state)
    assert converted.model.config.vision.num_attention_heads == converted.model.config.text.num_attention_heads == 16
    assert "gelu assumed" in converted.report.notes[0]
    assert_same_as_openai(converted.model, state, "gelu", sizes, atol=1e-4)


@pytest.mark.parametrize(
    ("vision", "text", "hidden_act"),
    [((1024, 16), (768, 12), "quick_gelu"), ((1280, 16), (1024, 16), "gelu")],
    ids=["L/14", "H/14"],
)
def test_from_clip_with_the_proportions_of_large_models(
    tmp_path: Path, vision: tuple[int, int], text: tuple[int, int], hidden_act: str
) -> None:
    """Catches a tower that only works at ViT-B's widths, or at 64 a head; the converted folder must agree."""
    sizes = {"num_hidden_layers": 1, "intermediate_size": 48, "hidden_act": hidden_act}
    changes = {**sizes, "hidden_size": vision[0], "num_attention_heads": vision[1], "image_size": 28, "patch_size": 14}
    changes |= {f"text_{key}": value for key, value in sizes.items()}
    clip = write_clip(tmp_path, **changes, text_hidden_size=text[0], text_num_attention_heads=text[1])
    assert_same_as_clip(ClipVipModel.from_clip(tmp_path, num_frames=2, num_proxies=1), clip)
    assert_same_as_clip(convert_checkpoint(tmp_path), clip)


# another image size


def test_stored_grid_is_kept_unless_another_size_is_asked_for() -> None:
    """Catches an interpolation nobody wanted, and one that touches anything but the grid."""
    model = convert_checkpoint(released(), **HEADS)
    same = convert_checkpoint(released(), **HEADS, image_size=32)
    larger = read_checkpoint(released(), Wanted(**HEADS, image_size=48))
    key = f"{EMBEDDINGS}.position_embedding.weight"
    assert torch.equal(same.state_dict()[key], model.state_dict()[key])
    assert larger.model.config.vision.image_size == 48
    assert larger.model.encode_video(torch.zeros(1, 2, 3, 48, 48)).shape == (1, 32)
    assert "4 x 4 to 6 x 6" in larger.report.notes[-1]
    before, after = model.state_dict(), larger.model.state_dict()
    assert torch.equal(after[key][0], before[key][0])
    assert all(torch.equal(after[name], value) for name, value in before.items() if name != key)


@pytest.mark.parametrize("grid", [3, 7, 12])
def test_interpolated_positions_keep_their_geometry(grid: int) -> None:
    """Catches rows and columns exchanged, a class row that is interpolated too, and a grid that drifts."""
    row, column = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    ramps = torch.stack([row, column, torch.full_like(row, 2.0)], dim=-1).flatten(0, 1)
    out = interpolate_positions(torch.cat([torch.tensor([[9.0, -9.0, 5.0]]), ramps]), grid)
    assert out.shape == (1 + grid**2, 3)
    assert out[0].tolist() == [9.0, -9.0, 5.0]
    rows, columns, constant = out[1:].unflatten(0, (grid, grid)).unbind(-1)
    torch.testing.assert_close(rows, columns.T)
    torch.testing.assert_close(columns, columns[:1].expand(grid, grid))
    assert (columns[0].diff() > 0).all()
    assert columns[0].mean().item() == pytest.approx(2.5, abs=1e-5)
    torch.testing.assert_close(constant, torch.full((grid, grid), 2.0))


def test_every_position_counts_when_the_grid_shrinks() -> None:
    """Catches shrinking without antialiasing, which leaves out the positions between the sampled ones."""
    weights = interpolate_positions(torch.cat([torch.zeros(1, 64), torch.eye(64)]), 2)  # of new rows in old positions
    assert (weights[1:].sum(0) > 0).all()
    torch.testing.assert_close(weights[1:].sum(1), torch.ones(4))
