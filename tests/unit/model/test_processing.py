"""What users of transformers and of PIL give to the processor, and expect from the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from clipvip.errors import ConfigError, InputError
from clipvip.model import ClipVipModel, ClipVipProcessor
from helpers_model import TEXTS, write_model
from helpers_video import write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def processor(folder: Path) -> ClipVipProcessor:
    return ClipVipProcessor.from_pretrained(folder)


def frames(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 40, 50, 3), np.uint8))


def test_images_of_pil_are_those_of_arrays(processor: ClipVipProcessor, tmp_path: Path) -> None:
    """Catches channels in another order, or transparency that shows what is below it."""
    (pixels,) = frames(1)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = processor(images=[pixels])["pixel_values"]
    assert expected.shape == (1, 1, 3, 32, 32)
    for given in (Image.fromarray(pixels), [Image.fromarray(pixels)], [tmp_path / "a.png"], pixels):
        assert torch.equal(processor(images=given)["pixel_values"], expected)
    clear = Image.fromarray(np.dstack([pixels, np.zeros((40, 50), np.uint8)]))
    white = processor(images=[np.full_like(pixels, 255)])["pixel_values"]
    assert torch.equal(processor(images=clear)["pixel_values"], white)


def test_lists_of_frames_are_videos(processor: ClipVipProcessor, tmp_path: Path) -> None:
    """Catches a list of frames that is taken for several videos, or several videos that become one."""
    first, second = frames(6), frames(6, seed=1)
    expected = processor(videos=[np.stack(first), np.stack(second)])["pixel_values"]
    assert expected.shape == (2, 6, 3, 32, 32)
    pil = [Image.fromarray(frame) for frame in first]
    assert torch.equal(processor(videos=pil)["pixel_values"], expected[:1])
    assert torch.equal(processor(videos=first)["pixel_values"], expected[:1])
    assert torch.equal(processor(videos=tuple(pil))["pixel_values"], expected[:1])
    assert torch.equal(processor(videos=[tuple(pil), second])["pixel_values"], expected)
    assert processor(images=tuple(pil))["pixel_values"].shape == (6, 1, 3, 32, 32)
    assert torch.equal(processor(videos=[pil, second])["pixel_values"], expected)
    video = write_video(tmp_path / "a.mp4", 12)
    assert processor(videos=[video])["pixel_values"].shape == (1, 4, 3, 32, 32)
    for bad, message in (
        ({"videos": pil[0]}, "videos: got a PIL image"),
        ({"images": [pil]}, "images: got a list of frames"),
        ({"videos": [[]]}, "a video without frames"),
        ({"videos": []}, "videos is an empty list"),
        ({"texts": []}, "texts is an empty list"),
        ({"text": 5}, "expected a string or a list of strings, got 5"),
    ):
        with pytest.raises(InputError, match=message):
            processor(**bad)


def test_texts_by_either_name(processor: ClipVipProcessor) -> None:
    """Catches an argument that is accepted and ignored."""
    expected = processor(texts=TEXTS)
    assert processor(text=TEXTS, return_tensors="pt", padding=True).keys() == expected.keys()
    assert torch.equal(processor(text=TEXTS).input_ids, expected["input_ids"])
    with pytest.raises(InputError, match="give one of them"):
        processor(texts=TEXTS, text=TEXTS)
    for option in ({"return_tensors": "np"}, {"padding": "max_length"}, {"padding": False}, {"truncation": False}):
        with pytest.raises(InputError, match=f"{next(iter(option))}="):
            processor(text=TEXTS, **option)


def test_settings_can_be_replaced_at_loading(folder: Path) -> None:
    """Catches an option of from_pretrained that is accepted and ignored."""
    assert ClipVipProcessor.from_pretrained(folder, num_frames=7, resize="crop").to_dict()["num_frames"] == 7
    assert AutoProcessor.from_pretrained(folder, num_frames=7).num_frames == 7


def test_inputs_go_to_a_device_and_into_a_model(folder: Path, processor: ClipVipProcessor) -> None:
    """Catches integers that become floats, and names that the model does not take."""
    inputs = processor(text=TEXTS, videos=frames(4)).to("cpu", torch.float64)
    assert inputs.pixel_values.dtype == torch.float64
    assert inputs.input_ids.dtype == torch.int64
    assert inputs.to(torch.float32).pixel_values.dtype == torch.float32
    with pytest.raises(AttributeError):
        _ = inputs.labels
    model = ClipVipModel.from_pretrained(folder).double()
    with torch.no_grad():
        out = model(**inputs)
        video, text = model.get_video_features(inputs.pixel_values), model.get_text_features(inputs.input_ids)
        image = model.get_image_features(inputs.pixel_values[:, 0])
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(unit(video, dim=-1), out.video_embeds)
    torch.testing.assert_close(unit(text, dim=-1), out.text_embeds)
    torch.testing.assert_close(unit(image, dim=-1), model.encode_video(inputs.pixel_values[:, :1]))
    assert not torch.allclose(video.norm(dim=-1), torch.ones(1, dtype=torch.float64), atol=1e-3)


def test_the_tokeniser_of_a_folder_is_transformers(folder: Path, tmp_path: Path) -> None:
    """Catches other ids, or a folder that transformers cannot read, where the tokeniser is read without it."""
    from transformers import AutoTokenizer

    texts = [*TEXTS, "", "It's 3 o'clock -- ÄÖÜ 😀 <|endoftext|> twice", "word " * 60]
    own = ClipVipProcessor.from_pretrained(folder)
    theirs = ClipVipProcessor(
        AutoTokenizer.from_pretrained(folder), **{k: getattr(own, k) for k in ("max_text_tokens",)}
    )
    with pytest.warns(UserWarning, match="was cut"):
        ours, expected = own.tokenize(texts), theirs.tokenize(texts)
    assert torch.equal(ours["input_ids"], expected["input_ids"])
    assert torch.equal(ours["attention_mask"], expected["attention_mask"])
    own.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        assert (tmp_path / name).read_text().strip() == (folder / name).read_text().strip(), name
    assert (
        AutoTokenizer.from_pretrained(tmp_path)(texts)["input_ids"]
        == AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]
    )


def test_a_slow_tokeniser_is_refused() -> None:
    """Catches a tokeniser without a backend, which fails at the first text."""
    with pytest.raises(ConfigError, match="a str is no fast tokeniser"):
        ClipVipProcessor("openai/clip-vit-base-patch32")  # type: ignore[arg-type]
