"""The one inference path: order, grouping, images, plain CLIP, fingerprints."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

import clipvip
from clipvip.errors import CheckpointError, ClipVipWarning, InputError, UsageError, VideoDecodeError
from clipvip.model import ClipVipModel, ClipVipProcessor
from clipvip.model.tokenizer import train_clip_tokenizer
from clipvip.records import Clip
from clipvip.video import read_frames
from helpers_model import TEXTS, tiny_config, write_model
from helpers_video import write_frames, write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> clipvip.Encoder:
    return clipvip.load(folder, device="cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    media = tmp_path_factory.mktemp("media")
    return [write_video(media / f"{n}.mp4", n) for n in (20, 1, 7, 3, 12)]


def test_order_and_batching_do_not_change_the_result(encoder: clipvip.Encoder, videos: list[Path]) -> None:
    """Catches rows swapped between batches, and single-frame files mixed up with videos."""
    whole = encoder.encode_videos(videos)
    assert whole.shape == (5, 16)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    for batch_size in (1, 2, 3):
        np.testing.assert_allclose(encoder.encode_videos(videos, batch_size=batch_size), whole, atol=1e-6)
    single = np.concatenate([encoder.encode_videos([video]) for video in videos])
    np.testing.assert_allclose(single, whole, atol=1e-6)
    frames = [read_frames(video, num_frames=4) for video in videos]
    np.testing.assert_allclose(encoder.encode_videos(frames), whole, atol=1e-6)


def test_a_folder_of_frames_is_a_video(encoder: clipvip.Encoder, tmp_path: Path) -> None:
    """Catches a folder of frames that training reads and evaluation and search by example do not."""
    folder = write_frames(tmp_path / "video7", 21)
    frames = np.stack([np.full((12, 16, 3), level, np.uint8) for level in (0, 6, 13, 20)])
    expected = encoder.encode_videos([frames])
    np.testing.assert_array_equal(encoder.encode_videos([folder]), expected)
    np.testing.assert_array_equal(encoder.encode_clips([Clip("a", video=folder)]).vectors, expected)
    with pytest.raises(VideoDecodeError, match="has no times"):
        encoder.encode_videos([(folder, 0.0, 1.0)])


def test_time_ranges_and_manifest_clips(encoder: clipvip.Encoder, videos: list[Path]) -> None:
    """Catches a range ignored on one of the two ways in."""
    ranged = encoder.encode_videos([(videos[0], 0.5, 1.5)])
    assert np.abs(ranged - encoder.encode_videos([videos[0]])).max() > 1e-3
    clips = [Clip("a", video=videos[0], start_s=0.5, end_s=1.5), Clip("b", video=videos[2])]
    found = encoder.encode_clips(clips)
    assert found.ids == ("a", "b")
    np.testing.assert_allclose(found.vectors[0], ranged[0], atol=1e-6)
    np.testing.assert_allclose(found.vectors[1], encoder.encode_videos([videos[2]])[0], atol=1e-6)


def test_image_equals_one_frame_file(encoder: clipvip.Encoder, tmp_path: Path) -> None:
    """Catches a picture that gets another temporal position, or another preprocessing, than a one-frame video."""
    video = write_video(tmp_path / "one.mkv", 1, codec="ffv1", pix_fmt="bgr0")  # lossless, so that the pixels agree
    frame = read_frames(video)[0]
    Image.fromarray(frame).save(tmp_path / "one.png")
    image = encoder.encode_images([tmp_path / "one.png"])
    np.testing.assert_allclose(encoder.encode_videos([video]), image, atol=1e-6)
    found = encoder.encode_clips([Clip("i", image=tmp_path / "one.png")])
    np.testing.assert_allclose(found.vectors, image, atol=1e-6)


def test_texts_keep_their_order_and_long_ones_their_end(encoder: clipvip.Encoder) -> None:
    """Catches texts returned sorted by length, and a cut that drops the end token."""
    texts = ["grass", "a red circle grows on the grass " * 9, "a red circle", "", "the blue square jumps at night"]
    whole = encoder.encode_texts(texts)
    for text, vector in zip(texts, whole, strict=True):
        np.testing.assert_allclose(encoder.encode_texts([text])[0], vector, atol=1e-6)
    ids = encoder.processor.tokenize(texts)["input_ids"]
    assert ids.shape[1] == 32
    assert (ids == encoder.processor.tokenizer.eos_token_id).any(dim=1).all()


def test_clips_that_cannot_be_decoded(encoder: clipvip.Encoder, videos: list[Path], tmp_path: Path) -> None:
    """Catches rows that belong to another clip than their id says, and a gallery that shrinks without being told to."""
    clips = [Clip(str(i), video=path) for i, path in enumerate([tmp_path / "none.mp4", *videos[:2]])]
    with pytest.raises(VideoDecodeError, match=r"none\.mp4"):
        encoder.encode_clips(clips)
    found = encoder.encode_clips(clips, on_decode_error="skip")
    assert found.ids == ("1", "2")
    assert list(found.skipped) == ["0"]
    np.testing.assert_allclose(found.vectors, encoder.encode_videos(videos[:2]), atol=1e-6)
    with pytest.raises(VideoDecodeError, match=r"none\.mp4"):
        encoder.encode_clips(clips[:1], on_decode_error="skip")


def test_no_items(encoder: clipvip.Encoder) -> None:
    """Catches a crash on an empty list."""
    assert encoder.encode_videos([]).shape == (0, 16)
    assert encoder.encode_texts([]).shape == (0, 16)


def test_bad_input_is_named(encoder: clipvip.Encoder, tmp_path: Path) -> None:
    """Catches obscure failures deep in the model."""
    with pytest.raises(VideoDecodeError, match=r"nowhere\.mp4: no such file"):
        encoder.encode_videos([tmp_path / "nowhere.mp4"])
    with pytest.raises(InputError, match=r"expected a list, got one item: \['a red circle'\]"):
        encoder.encode_texts("a red circle")
    with pytest.raises(InputError, match="expected a list"):
        encoder.encode_videos("a.mp4")
    with pytest.raises(InputError, match="expected a list"):
        encoder.encode_videos(("a.mp4", 0.0, 1.0))
    with pytest.raises(InputError, match="expected strings, got 3"):
        encoder.encode_texts([3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="uint8"):
        encoder.encode_videos([np.zeros((4, 8, 8, 3), np.float32)])
    with pytest.raises(InputError, match="no time range"):
        encoder.encode_images([("a.png", 0.0, 1.0)])


def test_fingerprint_follows_what_matters(folder: Path, tmp_path: Path) -> None:
    """Catches an index that mixes models, and a search refused for another dtype."""
    base = clipvip.load(folder, device="cpu").fingerprint
    used = clipvip.load(folder, device="cpu")
    used.encode_texts(["a tokeniser remembers its last padding"])
    assert used.fingerprint == base
    assert clipvip.load(folder, device="cpu", dtype="bfloat16").fingerprint == base
    assert clipvip.load(write_model(tmp_path / "same"), device="cpu").fingerprint == base
    assert clipvip.load(write_model(tmp_path / "other", seed=1), device="cpu").fingerprint != base
    settings = tmp_path / "same" / "processor_config.json"
    changed = json.loads(settings.read_text()) | {"resize": "crop"}
    settings.write_text(json.dumps(changed))
    assert clipvip.load(tmp_path / "same", device="cpu").fingerprint != base
    cleaning = json.loads((folder / "processor_config.json").read_text()) | {"text_cleaning": "openai"}
    settings.write_text(json.dumps(cleaning))
    cleans = clipvip.load(tmp_path / "same", device="cpu")
    assert cleans.fingerprint != base
    texts = ["a red&amp;blue circle", "a red & blue circle"]
    assert np.abs(np.subtract(*used.encode_texts(texts))).max() > 1e-3
    cleaned = cleans.encode_texts(["a red &amp;  blue circle", "a red & blue circle"])
    np.testing.assert_array_equal(cleaned[0], cleaned[1])


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, "74d3a72e542743a8"), ({"resize": "crop", "antialias": True}, "03ad6e0cdc62887b")],
)
def test_fingerprints_of_models_that_are_in_use_stay(options: dict[str, Any], expected: str) -> None:
    """Catches a new field of the processor whose default changes fingerprints: every existing index would be refused.

    The expected values were computed at commit 2385128, with weights that no random generator makes.
    """
    tokenizer = train_clip_tokenizer(TEXTS)
    model = ClipVipModel(tiny_config(tokenizer, 32, projection_dim=16))
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(model.named_parameters())):
            values = (torch.arange(parameter.numel()) * 37 + number) % 101 - 50
            parameter.copy_(values.view_as(parameter) / 256)
    processor = ClipVipProcessor(tokenizer, num_frames=4, image_size=32, max_text_tokens=32, **options)
    assert clipvip.Encoder(model, processor).fingerprint == expected


def test_bfloat16_stays_close(folder: Path, videos: list[Path], encoder: clipvip.Encoder) -> None:
    """Catches half precision that reaches the normalisation or the returned vectors."""
    half = clipvip.load(folder, device="cpu", dtype="bfloat16").encode_videos(videos)
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
    assert (half * encoder.encode_videos(videos)).sum(1).min() > 0.999


def test_plain_clip_loads_with_mean(tmp_path: Path, videos: list[Path]) -> None:
    """Catches plain CLIP weights that load with random proxies, or with another preprocessing than CLIP's."""
    tokenizer = train_clip_tokenizer(["a red circle", "a blue square"])
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "max_position_embeddings": 20}
    special |= {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    clip = CLIPModel(
        CLIPConfig(
            text_config={**sizes, **special},
            vision_config={**sizes, "image_size": 32, "patch_size": 16},
            projection_dim=8,
        )
    ).eval()
    clip.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    preprocessing = {
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.2],
        "image_processor_type": "CLIPImageProcessor",
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    encoder = clipvip.load(tmp_path, device="cpu")
    processor = encoder.processor
    assert (processor.resize, processor.antialias, processor.image_size) == ("crop", True, 32)
    assert processor.image_mean == [0.5, 0.4, 0.3]
    pixels = processor.video_pixels(videos[0])
    with torch.no_grad():
        frames = torch.nn.functional.normalize(clip.get_image_features(pixels).pooler_output, dim=-1)
    expected = torch.nn.functional.normalize(frames.mean(0), dim=0).numpy()
    np.testing.assert_allclose(encoder.encode_videos([videos[0]])[0], expected, atol=1e-5)


def test_missing_or_foreign_models_are_named(tmp_path: Path) -> None:
    """Catches tracebacks for a mistyped model folder."""
    with pytest.raises(CheckpointError, match="no such folder"):
        clipvip.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no usable model there"):
        clipvip.load(tmp_path)
    with pytest.raises(UsageError, match="dtype='int8'"):
        clipvip.load(tmp_path, dtype="int8")
    with pytest.raises(UsageError, match="device='toaster'"):
        clipvip.load(tmp_path, device="toaster")
    model = write_model(tmp_path / "m")
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(CheckpointError, match=r"model.safetensors: a damaged or cut off safetensors file"):
        clipvip.load(model)
    (model / "model.safetensors").write_bytes(weights)
    (model / "processor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"processor makes 224 pixels|max_text_tokens=70|processor"):
        clipvip.load(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError):
        clipvip.load(model)


def test_processor_round_trip(folder: Path, tmp_path: Path) -> None:
    """Catches a setting that save_pretrained forgets: search would then preprocess unlike training."""
    processor = ClipVipProcessor.from_pretrained(folder)
    changed = ClipVipProcessor(
        processor.tokenizer, num_frames=3, image_size=48, resize="crop", resize_in="decoder", antialias=True,
        image_mean=(0.1, 0.2, 0.3), image_std=(0.4, 0.5, 0.6), max_text_tokens=9,
    )  # fmt: skip
    changed.save_pretrained(tmp_path)
    loaded = ClipVipProcessor.from_pretrained(tmp_path)
    names = (
        "num_frames",
        "image_size",
        "resize",
        "resize_in",
        "antialias",
        "image_mean",
        "image_std",
        "max_text_tokens",
    )
    assert {name: getattr(loaded, name) for name in names} == {name: getattr(changed, name) for name in names}
    assert (
        loaded.tokenize(["a red circle"])["input_ids"].tolist()
        == changed.tokenize(["a red circle"])["input_ids"].tolist()
    )


def test_processor_call(folder: Path, videos: list[Path]) -> None:
    """Catches a batch of videos and single-frame files stacked by repetition, and wrong shapes."""
    processor = ClipVipProcessor.from_pretrained(folder)
    out = processor(videos=[videos[0], videos[2]], texts=["a circle", "the blue square"])
    assert out["pixel_values"].shape == (2, 4, 3, 32, 32)
    assert out["input_ids"].shape == out["attention_mask"].shape
    assert processor(videos=videos[1])["pixel_values"].shape == (1, 1, 3, 32, 32)
    with pytest.raises(InputError, match="do not fit one batch"):
        processor(videos=[videos[0], videos[1]])
    with pytest.raises(InputError, match="not both"):
        processor(videos=videos[0], images=np.zeros((8, 8, 3), np.uint8))


def test_a_cut_text_is_said_once(folder: Path) -> None:
    """Catches a silent cut, and a warning for every batch of a large manifest."""
    encoder = clipvip.load(folder, device="cpu")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        encoder.encode_texts(["a red circle"])
        assert not told
        encoder.encode_texts(["a red circle " * 20, "grass", "the blue square " * 20], batch_size=1)
    (warning,) = told
    assert warning.category is ClipVipWarning
    assert "is longer than 32 tokens and was cut" in str(warning.message)


def test_pixels_that_are_no_numbers_are_named(folder: Path) -> None:
    """Catches NaN embeddings, which would sit in an index for good and match nothing."""
    encoder = clipvip.load(folder, device="cpu")
    pixels = torch.zeros(3, 4, 3, 32, 32)
    pixels[1, 2, 0, 5, 5] = torch.nan
    with pytest.raises(InputError, match=r"pixel_values\[1\]: NaN or infinite"):
        encoder.encode_pixels(pixels)


def test_load_gives_a_model_for_inference(folder: Path) -> None:
    """Catches `load` leaving the speed on the table, or bfloat16 that is not what it says."""
    single, half = clipvip.load(folder, device="cpu"), clipvip.load(folder, device="cpu", dtype="bfloat16")
    assert (single.dtype, half.dtype) == ("float32", "bfloat16")
    texts = ["a red circle", "grass"]
    a, b = single.encode_texts(texts), half.encode_texts(texts)
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.02
    np.testing.assert_allclose(np.linalg.norm(b, axis=1), 1, atol=1e-6)
