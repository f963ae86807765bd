"""The model as users meet it: CLIP equivalence, fresh parameters, saving, bad input."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import processors
from torch import Tensor
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel, PreTrainedTokenizerBase

import clipvip
from clipvip.checkpoints import convert_checkpoint
from clipvip.errors import CheckpointError, ConfigError, InputError
from clipvip.model import ClipVipConfig, ClipVipModel, ClipVipProcessor, modeling_clipvip
from clipvip.model.modeling_clipvip import Block, attention, proxy_guided_attention
from clipvip.model.tokenizer import train_clip_tokenizer
from helpers_golden import golden_config, golden_state


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP as transformers saves it, with the placeholder end token of OpenAI's own folders."""
    ours = golden_config()
    torch.manual_seed(0)
    text = {**ours.text_config.to_dict(), "eos_token_id": 99}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=ours.vision_config.to_dict(), projection_dim=32))
    for parameter in clip.parameters():  # CLIP's own start is so small that mistakes would hide
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("clip")
    clip.save_pretrained(folder)
    return folder


def pixels(*shape: int) -> Tensor:
    return torch.randn(*shape, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_model_from_scratch_starts_as_clip_does() -> None:
    """Catches modules that transformers passes over when it initialises: they would keep torch's default start."""
    wide = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    special = {"vocab_size": 100, "bos_token_id": 98, "eos_token_id": 99, "pad_token_id": 99}
    text, vision = {**wide, **special}, {**wide, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    ours = ClipVipModel(ClipVipConfig(text_config=text, vision_config=vision, projection_dim=64)).state_dict()
    theirs = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)).state_dict()
    for name, expected in theirs.items():
        if expected.ndim > 1 and expected.numel() > 1000:
            assert float(ours[name].std()) == pytest.approx(float(expected.std()), rel=0.1), name
        elif name.endswith("bias"):
            assert not ours[name].any(), name


def test_what_a_video_model_adds_to_clip_is_as_small_as_the_docs_say() -> None:
    """Catches a stated number of parameters that the real configuration does not have (README, model/vision.py)."""
    with torch.device("meta"):
        vip, mean = ClipVipModel(ClipVipConfig()), ClipVipModel(ClipVipConfig(aggregator="mean"))
    embeddings = vip.vision_model.embeddings
    assert embeddings.proxy_tokens is not None
    assert embeddings.temporal_embedding is not None
    assert (embeddings.proxy_tokens.numel(), embeddings.temporal_embedding.numel()) == (2_304, 9_216)
    clip_tower = sum(parameter.numel() for parameter in mean.vision_model.parameters())
    assert round(clip_tower / 1e6, 1) == 87.5
    assert sum(p.numel() for p in vip.parameters()) - sum(p.numel() for p in mean.parameters()) == 2_304 + 9_216


def test_one_frame_equals_clip(clip_folder: Path) -> None:
    """Catches any departure from CLIP: with one proxy and no temporal signal, a frame is CLIP's image."""
    clip = CLIPModel.from_pretrained(clip_folder).eval()
    images, ids = pixels(3), torch.tensor([[98, 5, 7, 99, 99], [98, 1, 2, 3, 99]])
    expected_image = clip.get_image_features(images).pooler_output
    expected_text = clip.get_text_features(ids).pooler_output
    vip = ClipVipModel.from_clip(clip_folder, num_proxies=1)
    assert not vip.vision_model.embeddings.temporal_embedding.any()
    with torch.no_grad():
        torch.testing.assert_close(
            vip.encode_video(images[:, None], normalize=False), expected_image, atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(vip.encode_text(ids, normalize=False), expected_text, atol=1e-5, rtol=1e-5)
        mean = ClipVipModel.from_clip(clip_folder, aggregator="mean")
        unit = torch.nn.functional.normalize(expected_image, dim=-1)
        torch.testing.assert_close(mean.encode_video(images), unit, atol=1e-5, rtol=0)
        pooled = torch.nn.functional.normalize(unit.mean(0, keepdim=True), dim=-1)
        torch.testing.assert_close(mean.encode_video(images[None]), pooled, atol=1e-5, rtol=0)


def test_decomposed_attention_equals_dense_mask() -> None:
    """Catches a missing proxy key or a frame that sees another frame, against one dense boolean mask."""
    torch.manual_seed(0)
    num_proxies, num_frames, num_patches = 3, 4, 5
    num_tokens = num_proxies + num_frames * num_patches
    q, k, v = torch.randn(3, 2, num_tokens, 2, 8, dtype=torch.float64)
    frame = torch.arange(num_tokens).sub(num_proxies).div(num_patches, rounding_mode="floor")
    frame[:num_proxies] = -1
    sees = (frame[:, None] == frame[None]) | (frame[:, None] == -1) | (frame[None] == -1)
    expected = attention(q, k, v, attn_mask=sees)
    torch.testing.assert_close(proxy_guided_attention(q, k, v, num_proxies, num_frames), expected)


def test_pruned_last_block_has_the_same_gradients() -> None:
    """Catches pruning that drops a key or value: gradients must equal those of the full last block."""
    model = ClipVipModel(golden_config())
    model.load_state_dict(golden_state())
    model.double()
    video = pixels(2, 4).double()
    model.encode_video(video).sum().backward()
    pruned = {name: p.grad.clone() for name, p in model.vision_model.named_parameters()}
    model.zero_grad()
    full = model.vision_model.post_layernorm(model.vision_model.hidden_states(video)[:, 0])
    torch.nn.functional.normalize(model.visual_projection(full), dim=-1).sum().backward()
    for name, parameter in model.vision_model.named_parameters():
        torch.testing.assert_close(pruned[name], parameter.grad, atol=1e-12, rtol=1e-9, msg=name)


@pytest.mark.parametrize("proxy_init", ["class", "normal"])
def test_new_parameters_are_finite_and_seeded(clip_folder: Path, proxy_init: str) -> None:
    """Catches parameters left as uninitialised memory by from_pretrained."""

    def fresh(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return ClipVipModel.from_clip(clip_folder, num_frames=6, num_proxies=4, proxy_init=proxy_init).state_dict()

    first, again, other = fresh(0), fresh(0), fresh(1)
    new = first["vision_model.embeddings.proxy_tokens"]
    assert new.shape == (3, 64)
    assert all(torch.isfinite(value).all() for value in first.values())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(new, other["vision_model.embeddings.proxy_tokens"])
    assert not first["vision_model.embeddings.temporal_embedding"].any()
    assert first["logit_scale"].item() == pytest.approx(4.60)
    old = CLIPModel.from_pretrained(clip_folder).state_dict()
    assert all(torch.equal(first[name], value) for name, value in old.items() if name != "logit_scale")


def test_scratch_start_is_finite_and_seeded() -> None:
    """Catches a parameter of a new model that no initialiser touched."""

    def fresh() -> dict[str, Tensor]:
        torch.manual_seed(3)
        return ClipVipModel(golden_config()).state_dict()

    first, again = fresh(), fresh()
    assert all(torch.isfinite(value).all() and torch.equal(value, again[name]) for name, value in first.items())
    assert all(value.any() for name, value in first.items() if name.endswith("weight"))


def test_save_and_load_through_auto_classes(tmp_path: Path) -> None:
    """Catches keys or configuration lost between save_pretrained and AutoModel."""
    model = ClipVipModel(golden_config())
    model.load_state_dict(golden_state())
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), ClipVipConfig)
    assert isinstance(loaded, ClipVipModel)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    video = pixels(2, 4)
    with torch.no_grad():
        assert torch.equal(loaded.encode_video(video), model.encode_video(video))


def test_left_over_and_missing_weights_are_errors(clip_folder: Path, tmp_path: Path) -> None:
    """Catches the released loader's habit of skipping keys silently."""
    clip = CLIPModel.from_pretrained(clip_folder)
    state = clip.state_dict()
    del state["visual_projection.weight"]
    clip.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(CheckpointError, match=r"missing \(visual_projection.weight\)"):
        ClipVipModel.from_clip(tmp_path)
    clip.save_pretrained(tmp_path, state_dict={**clip.state_dict(), "surprise.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"left over \(surprise.weight\)"):
        ClipVipModel.from_clip(tmp_path)


def test_placeholder_end_token_is_replaced(clip_folder: Path) -> None:
    """Catches pooling at id 2, the meaningless end token in the configuration of OpenAI's own folders."""
    clip = CLIPModel.from_pretrained(clip_folder)
    clip.config.text_config.eos_token_id = 2
    folder = clip_folder.parent / "legacy"
    clip.save_pretrained(folder)
    assert ClipVipModel.from_clip(folder).config.text_config.eos_token_id == 99


def write_padded_clip(folder: Path, pad_to: int) -> tuple[CLIPModel, PreTrainedTokenizerBase]:
    """A CLIP with the placeholder end token, its tokeniser, and rows in its vocabulary that no token has."""
    tokenizer = train_clip_tokenizer(["a red circle grows", "the blue square"])
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(tokenizer) + pad_to, "max_position_embeddings": 20, "eos_token_id": 2}
    text |= {"bos_token_id": 0, "pad_token_id": 1}
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16})).eval()
    for parameter in clip.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    clip.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return clip, tokenizer


@pytest.mark.parametrize("pad_to", [0, 7])
def test_texts_of_a_padded_vocabulary_are_those_of_transformers(pad_to: int, tmp_path: Path) -> None:
    """Catches the last row of a padded vocabulary taken for the end token: every text had the same embedding."""
    clip, tokenizer = write_padded_clip(tmp_path, pad_to)
    texts = ["a red circle", "the blue square grows"]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    expected = clip.get_text_features(**tokens).pooler_output
    assert not torch.allclose(expected[0], expected[1], atol=1e-2)
    for model in (ClipVipModel.from_clip(tmp_path, num_proxies=1), convert_checkpoint(tmp_path)):
        ours = model.encode_text(tokens["input_ids"], tokens["attention_mask"], normalize=False)
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    loaded = clipvip.load(tmp_path, device="cpu").encode_texts(texts)
    torch.testing.assert_close(
        torch.from_numpy(loaded), torch.nn.functional.normalize(expected, dim=-1), atol=1e-5, rtol=0
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    if pad_to:
        with pytest.raises(InputError, match="has no end token"):
            ClipVipModel.from_clip(tmp_path).encode_text(tokens["input_ids"], tokens["attention_mask"])


def test_a_placeholder_that_the_tokeniser_contradicts(tmp_path: Path) -> None:
    """Catches pooling where transformers does not: its end token is not the largest id of its tokeniser."""
    _, tokenizer = write_padded_clip(tmp_path, 7)
    tokenizer.add_tokens(["[later]"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"eos_token_id=2 .* means the largest id .* but its tokeniser ends"):
        ClipVipModel.from_clip(tmp_path)


def test_a_tokeniser_that_pads_on_the_left_changes_nothing(tmp_path: Path) -> None:
    """Catches embeddings that depend on which other texts are in a batch, and on how a tokeniser was saved."""
    write_padded_clip(tmp_path, 0)
    texts = ["a red circle", "the blue square grows and grows"]
    expected = clipvip.load(tmp_path, device="cpu").encode_texts(texts)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"padding_side": "left"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = clipvip.load(tmp_path, device="cpu")
    assert found.processor.tokenizer.padding_side == "left"
    assert (found.encode_texts(texts) == expected).all()


def test_a_tokeniser_that_adds_no_end_token(tmp_path: Path) -> None:
    """Catches texts pooled at their first token, all alike, on any device."""
    _, tokenizer = write_padded_clip(tmp_path, 0)
    processor = ClipVipProcessor(tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")  # type: ignore[assignment]
    with pytest.raises(InputError, match="text 'a red circle': its tokens have no end token"):
        processor.tokenize(["a red circle"])


def test_a_row_without_an_end_token_is_nan_where_values_are_not_looked_at() -> None:
    """Catches an embedding of the first token alone, which looks like any other, on a GPU."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model = ClipVipModel(golden_config()).cuda()
    out = model.encode_text(torch.tensor([[98, 5, 99], [98, 5, 7]], device="cuda"))
    assert out.isnan().any(1).tolist() == [False, True]


def test_outputs_of_forward() -> None:
    """Catches transposed or unscaled logits."""
    model = ClipVipModel(golden_config())
    model.load_state_dict(golden_state())
    with torch.no_grad():
        out = model(pixel_values=pixels(2, 4), input_ids=torch.tensor([[98, 4, 99], [98, 9, 99], [98, 8, 99]]))
    assert out.logits_per_video.shape == (2, 3)
    expected = model.logit_scale.exp() * out.video_embeds @ out.text_embeds.T
    torch.testing.assert_close(out.logits_per_video, expected)
    torch.testing.assert_close(out.logits_per_text, expected.T)
    assert model(pixel_values=pixels(2, 4)).text_embeds is None
    with pytest.raises(InputError, match="got no input: give pixel_values, input_ids or both"):
        model()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(2, 4, 3, 16, 16), r"expected \[B, T, 3, 32, 32\]"),
        (torch.zeros(2, 4, 1, 32, 32), r"expected \[B, T, 3, 32, 32\]"),
        (torch.zeros(2, 0, 3, 32, 32), "T >= 1"),
        (torch.zeros(32, 32), "pixel_values"),
        (torch.zeros(2, 4, 3, 32, 32, dtype=torch.uint8), "expected floats"),
    ],
)
def test_bad_pixels(bad: Tensor, message: str) -> None:
    """Catches a wrong shape that would only fail, obscurely, deep inside the tower."""
    with pytest.raises(InputError, match=message):
        ClipVipModel(golden_config()).encode_video(bad)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (torch.zeros(2, 78, dtype=torch.int64), None, "78 tokens"),
        (torch.zeros(2, 0, dtype=torch.int64), None, "0 tokens"),
        (torch.zeros(2, 5), None, "expected integers"),
        (torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 4), "attention_mask"),
        (torch.full((2, 5), 100), None, "token 100, but the vocabulary has 0 to 99"),
        (torch.full((2, 5), -1), None, "token -1"),
        (torch.tensor([[98, 5, 99], [98, 5, 7]]), None, r"row 1 has no end token \(99\)"),
        (torch.tensor([[98, 5, 99], [98, 5, 99]]), torch.tensor([[1, 1, 1], [0, 1, 1]]), "row 1 has padding before"),
        (torch.tensor([[98, 5, 99]]), torch.tensor([[1, 0, 1]]), "row 0 has padding before"),
    ],
)
def test_bad_texts(ids: Tensor, mask: Tensor | None, message: str) -> None:
    """Catches over-long texts, masks of another batch and token ids of another tokeniser."""
    with pytest.raises(InputError, match=message):
        ClipVipModel(golden_config()).encode_text(ids, mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregator": "median"}, "median"),
        ({"aggregator": "mean", "num_proxies": 4}, "num_proxies=1"),
        ({"num_proxies": 0}, "num_proxies=0"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"proxy_init": "zero"}, "proxy_init"),
    ],
)
def test_bad_configuration(options: dict[str, object], message: str) -> None:
    """Catches nonsense that would otherwise train for hours."""
    with pytest.raises(Exception, match=message) as caught:
        golden_config(**options)
    assert isinstance(caught.value, ConfigError) or isinstance(caught.value.__cause__, ConfigError)


def test_layer_scale_multiplies_both_branches() -> None:
    """Catches a factor on one branch only, or on the residual stream itself."""
    config = golden_config().vision_config
    torch.manual_seed(0)
    plain, scaled = Block(config), Block(config, layer_scale=0.5)
    missing, unexpected = scaled.load_state_dict(plain.state_dict(), strict=False)
    assert (missing, unexpected) == (["scale1.gamma", "scale2.gamma"], [])
    x = torch.randn(2, 5, config.hidden_size)
    normed = plain.layer_norm1(x)
    half = x + 0.5 * plain.self_attn(normed, normed, attention)
    expected = half + 0.5 * plain.mlp(plain.layer_norm2(half))
    torch.testing.assert_close(scaled(x, attention), expected)


def test_the_model_file_imports_torch_and_the_configuration_only() -> None:
    """Catches a file that cannot be read, or copied into a notebook, without the rest of the package."""
    tree = ast.parse(Path(modeling_clipvip.__file__).read_text())
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    foreign = {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if name.partition(".")[0] != "torch"} == {"clipvip.model.configuration_clipvip"}
