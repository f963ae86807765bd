"""`ClipVipProcessor`: files, frames and texts to model inputs, with the choices that training and search must share.

Shapes: B videos, T frames, S image size, N texts.
"""

from __future__ import annotations

import json
import warnings
from collections import UserDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from clipvip.data import read_frame_folder
from clipvip.errors import CheckpointError, ClipVipWarning, ConfigError, InputError
from clipvip.files import parse_json
from clipvip.model.configuration_clipvip import ClipVipConfig
from clipvip.model.hub import load_tokenizer, locate, own_folder, read_config
from clipvip.model.text_cleaning import TEXT_CLEANINGS, clean_text
from clipvip.model.tokenizer import FolderTokenizer, read_folder_tokenizer
from clipvip.records import Clip
from clipvip.video import image_to_array, read_frames, read_image, uniform_indices
from clipvip.video.transforms import CLIP_MEAN, CLIP_STD, decoder_size, to_pixel_values

ADDED_SINCE = {"text_cleaning": "none"}
"""Fields that the first processors did not have: with these values they are no part of a model's fingerprint."""
PROCESSOR_FILE = "processor_config.json"
SETTINGS = (
    "num_frames", "image_size", "resize", "resize_in", "antialias", "image_mean", "image_std", "max_text_tokens",
    "text_cleaning",
)  # fmt: skip
"""What is saved: the arguments of `ClipVipProcessor` besides the tokeniser."""

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Frame = np.ndarray | Tensor | Image.Image
Media = str | Path | tuple[str | Path, float, float] | np.ndarray | Tensor | Image.Image | list[Frame]
"""A file; (file, start_s, end_s); decoded frames uint8 [T, H, W, 3], or a list of frames: uint8 [H, W, 3] or PIL."""


class ModelInputs(UserDict[str, Tensor]):
    """The tensors of a call, by name: `model(**inputs)`, `inputs["input_ids"]` or `inputs.input_ids`."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: torch.device | str | torch.dtype, dtype: torch.dtype | None = None) -> ModelInputs:
        """All tensors on a device, pixels in a dtype: `to("cuda")`, `to("cuda", dtype)` or `to(dtype)`."""
        target, dtype = (None, device) if isinstance(device, torch.dtype) else (device, dtype)
        moved = {
            name: tensor.to(device=target, dtype=dtype if tensor.is_floating_point() else None)
            for name, tensor in self.items()
        }
        return ModelInputs(moved)


class ClipVipProcessor:
    """Turns videos, images and texts into `pixel_values`, `input_ids` and `attention_mask`.

    Args:
        tokenizer: a CLIP tokeniser of transformers (a fast one), or a `FolderTokenizer`.
        num_frames: frames taken from a video, evenly spaced; a file with a single frame gives T = 1.
        image_size: side of the square input in pixels.
        resize: "squash" (both sides to image_size, as released) or "crop" (shorter side, then centre crop, as CLIP).
        resize_in: "tensor" (float bicubic) or "decoder" (the decoder's scaler: faster, for models trained that way).
        antialias: whether "tensor" resizing filters first (released code: no; CLIP's own preprocessing: yes).
        image_mean, image_std: per channel. max_text_tokens: longer texts are cut, their end token kept.
        text_cleaning: "none", or "openai" for models trained with OpenAI's or open_clip's tokeniser (see `clean_text`).
    Raises: ConfigError for a value that is not possible.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | FolderTokenizer,
        num_frames: int = 12,
        image_size: int = 224,
        resize: str = "squash",
        resize_in: str = "tensor",
        antialias: bool = False,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        max_text_tokens: int = 70,
        text_cleaning: str = "none",
    ):
        if text_cleaning not in TEXT_CLEANINGS:
            raise ConfigError(f"text_cleaning={text_cleaning!r}: choose {' or '.join(map(repr, TEXT_CLEANINGS))}")
        if resize not in ("squash", "crop"):
            raise ConfigError(f"resize={resize!r}: choose 'squash' or 'crop'")
        if resize_in not in ("tensor", "decoder"):
            raise ConfigError(f"resize_in={resize_in!r}: choose 'tensor' or 'decoder'")
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise ConfigError(f"tokenizer: a {type(tokenizer).__name__} is no fast tokeniser of transformers")
        self.tokenizer: Any = tokenizer
        self.num_frames = num_frames
        self.image_size = image_size
        self.resize = resize
        self.resize_in = resize_in
        self.antialias = antialias
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.max_text_tokens = max_text_tokens
        self.text_cleaning = text_cleaning
        self._warned_of_cut = False

    def __call__(
        self,
        videos: Media | Sequence[Media] | None = None,
        texts: str | Sequence[str] | None = None,
        images: Media | Sequence[Media] | None = None,
        *,
        text: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
        padding: bool | str = True,
        truncation: bool = True,
    ) -> ModelInputs:
        """Model inputs for what is given.

        Args:
            videos: Paths, (path, start_s, end_s), uint8 [T, H, W, 3], or lists of frames (uint8 [H, W, 3] or PIL
                images, all of which are used); a plain list of frames is one video.
            images: Paths, uint8 [H, W, 3] or PIL images (T = 1). Not together with videos.
            texts: One or several strings.
            text: The same; transformers' processors have this name.
            return_tensors: "pt". This and the next two are there for callers that are used to passing them.
            padding: True or "longest".
            truncation: True.
        Returns: `pixel_values` float32 [B, T, 3, S, S], `input_ids` and `attention_mask` int64 [N, tokens].
        Raises: VideoDecodeError, InputError.
        """
        if return_tensors != "pt" or padding not in (True, "longest") or truncation is not True:
            raise InputError(
                f"ClipVipProcessor: return_tensors={return_tensors!r}, padding={padding!r}, truncation={truncation!r}: "
                "it always returns torch tensors ('pt'), padded to the longest text, of texts that are cut"
            )
        if videos is not None and images is not None:
            raise InputError("ClipVipProcessor: give videos or images, not both in one call")
        if texts is not None and text is not None:
            raise InputError("ClipVipProcessor: texts and text are the same; give one of them")
        texts = text if texts is None else texts
        features: dict[str, Tensor] = {}
        if videos is not None or images is not None:
            if videos is not None:
                pixels = [self.video_pixels(video) for video in _as_videos(videos)]
            else:
                pixels = [self.image_pixels(image) for image in _as_list(images)]
            lengths = {len(video) for video in pixels}
            if not lengths:
                raise InputError(f"ClipVipProcessor: {'videos' if images is None else 'images'} is an empty list")
            if len(lengths) > 1:
                raise InputError(
                    f"videos of {sorted(lengths)} frames do not fit one batch: process single-frame files separately"
                )
            features["pixel_values"] = torch.stack(pixels)
        if texts is not None:
            features |= self.tokenize([texts] if isinstance(texts, str) else texts)
        return ModelInputs(features)

    def video_pixels(self, video: Media) -> Tensor:
        """One video to float32 [T, 3, S, S]; frames that are given are all used."""
        if isinstance(video, list) or (isinstance(video, tuple) and all(_is_frame(frame) for frame in video)):
            if not video:
                raise InputError("videos: got a video without frames")
            return torch.cat([self.image_pixels(frame) for frame in cast(Sequence[Frame], video)])
        if isinstance(video, Image.Image):
            raise InputError("videos: got a PIL image; pass it as images=, or pass a list of frames")
        return self.frames_to_pixels(video if isinstance(video, np.ndarray | Tensor) else self.video_frames(video))

    def video_frames(self, video: str | Path | tuple[str | Path, float, float]) -> np.ndarray:
        """The frames of a file, or a folder of frame images, that the model is to see, uint8 [T, H, W, 3].

        Those of a file are square if the decoder is to resize.
        """
        path, time_range = (video[0], (video[1], video[2])) if isinstance(video, tuple) else (video, None)
        if Path(path).is_dir():
            return read_frame_folder(Path(path), lambda total: uniform_indices(total, self.num_frames), time_range)
        return read_frames(path, num_frames=self.num_frames, time_range=time_range, size=self.decoder_size)

    def image_pixels(self, image: Media) -> Tensor:
        """One image to float32 [1, 3, S, S]."""
        if isinstance(image, tuple):
            raise InputError(f"{image[0]}: an image has no time range")
        if isinstance(image, list):
            raise InputError("images: got a list of frames; pass it as videos=")
        if isinstance(image, Image.Image):
            image = image_to_array(image)
        array = image if isinstance(image, np.ndarray | Tensor) else read_image(image)
        return self.frames_to_pixels(array[None])

    def clip_pixels(self, clip: Clip) -> Tensor:
        """A clip of a manifest, image or video, to float32 [T, 3, S, S]."""
        if clip.image is not None:
            return self.image_pixels(clip.image)
        span = clip.time_range
        return self.video_pixels(clip.path if span is None else (clip.path, *span))

    def frames_to_pixels(self, frames: np.ndarray | Tensor) -> Tensor:
        """Decoded frames uint8 [T, H, W, 3] to normalised float32 [T, 3, S, S]. Raises: InputError."""
        return to_pixel_values(
            frames,
            self.image_size,
            resize=self.resize,
            antialias=self.antialias,
            mean=self.image_mean,
            std=self.image_std,
        )

    def tokenize(self, texts: Sequence[str], *, multiple_of: int = 1) -> dict[str, Tensor]:
        """Texts to `input_ids` and `attention_mask`, padded to the longest of them.

        multiple_of: padded further, to a multiple of so many tokens, but to no more than `max_text_tokens`.
        Texts over `max_text_tokens` are cut, their end token kept; the first time a ClipVipWarning says so. A special
        token that is written out in a text, such as "<|endoftext|>", is ordinary text.
        Raises: InputError for a text that is no string, or to which the tokeniser gives no end token.
        """
        self.check_texts(texts)
        if not texts:
            raise InputError("texts is an empty list")
        backend: Tokenizer = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        backend.enable_truncation(self.max_text_tokens)
        # texts are read from position 0, whatever the tokeniser is set to
        backend.enable_padding(direction="right", pad_id=self.tokenizer.pad_token_id)
        cleaned = [clean_text(text) for text in texts] if self.text_cleaning == "openai" else list(texts)
        encodings = backend.encode_batch(cleaned)
        if not self._warned_of_cut and (cut := [i for i, text in enumerate(encodings) if text.overflowing]):
            self._warned_of_cut = True
            warnings.warn(
                f"text {texts[cut[0]][:40]!r}... is longer than {self.max_text_tokens} tokens and was cut, its end "
                "token kept; other long texts are cut as well (max_text_tokens of the processor or recipe; shown once)",
                ClipVipWarning,
                stacklevel=2,
            )
        input_ids = torch.tensor([text.ids for text in encodings]).view(len(encodings), -1)  # [N, tokens]
        attention_mask = torch.tensor([text.attention_mask for text in encodings]).view(len(encodings), -1)
        ended = (input_ids == self.tokenizer.eos_token_id).any(1)
        if not ended.all():
            raise InputError(
                f"text {texts[int(ended.int().argmin())][:40]!r}: its tokens have no end token, where texts are "
                "pooled; the tokeniser adds none: its tokenizer.json needs CLIP's post-processor"
            )
        length = input_ids.shape[1]
        more = (0, min(-(-length // multiple_of) * multiple_of, self.max_text_tokens) - length)
        return {
            "input_ids": F.pad(input_ids, more, value=self.tokenizer.pad_token_id),
            "attention_mask": F.pad(attention_mask, more),
        }

    @staticmethod
    def check_texts(texts: Sequence[str]) -> None:
        """Raises: InputError for the first text that is no string."""
        if not isinstance(texts, Sequence):
            raise InputError(f"texts: expected a string or a list of strings, got {texts!r}")
        for text in texts:
            if not isinstance(text, str):
                raise InputError(f"texts: expected strings, got {text!r}")

    def check_fits(self, source: str | Path, config: ClipVipConfig) -> None:
        """Raises: CheckpointError if this processor cannot be that of a model with `config`, both from `source`."""
        ours, theirs = self.tokenizer.eos_token_id, config.text.eos_token_id
        if len(self.tokenizer) > config.text.vocab_size or ours != theirs:
            raise CheckpointError(
                f"{source}: the tokeniser ({len(self.tokenizer)} tokens, end token {ours}) is not the model's "
                f"({config.text.vocab_size} tokens, end token {theirs}); are its tokeniser files missing, or is "
                f"--eos-token-id {ours} needed?"
            )
        if self.max_text_tokens > config.text.max_position_embeddings:
            raise CheckpointError(
                f"{source}: max_text_tokens={self.max_text_tokens}, but the model has positions for "
                f"{config.text.max_position_embeddings}; choose at most that"
            )
        if self.image_size != config.vision.image_size:
            raise CheckpointError(
                f"{source}: its processor makes {self.image_size} pixels, its model takes {config.vision.image_size}; "
                "is processor_config.json missing?"
            )

    @property
    def decoder_size(self) -> tuple[int, int] | int | None:
        """What to ask `read_frames` for as `size`: None where resizing happens on tensors."""
        return decoder_size(self.resize, self.image_size) if self.resize_in == "decoder" else None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in `processor_config.json`."""
        return {name: getattr(self, name) for name in SETTINGS} | {"processor_class": type(self).__name__}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `processor_config.json` and the tokeniser's files into a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        (Path(folder) / PROCESSOR_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> ClipVipProcessor:
        """The processor of a folder or hub id (ID or ID@REVISION).

        options: settings that replace the stored ones, such as `num_frames`; others are transformers' options for
        files of a hub, such as `revision` or `cache_dir`.
        Raises: CheckpointError if there is none, or its settings or tokeniser are damaged.
        """
        changed = {name: options.pop(name) for name in SETTINGS if name in options}
        settings = _processor_settings(source, **options)
        if not settings:
            raise CheckpointError(f"{source}: no usable processor there: no {PROCESSOR_FILE}")
        folder = own_folder(source)
        tokenizer: Any = None if folder is None else read_folder_tokenizer(folder)
        tokenizer = load_tokenizer(source) if tokenizer is None else tokenizer
        try:
            return cls(tokenizer, **{name: value for name, value in settings.items() if name in SETTINGS} | changed)
        except TypeError as error:
            raise CheckpointError(f"{source}: no usable processor there: {' '.join(str(error).split())}") from error

    @classmethod
    def from_clip(cls, source: str | Path, *, num_frames: int = 12) -> ClipVipProcessor:
        """The processor that plain CLIP weights want: crop, antialiased, with the folder's own size, mean and std.

        Texts are not cleaned: a folder does not say which tokeniser its weights were trained with, and indexes that
        were made with such a folder stay valid. `clipvip convert --text-cleaning openai` makes a model that cleans.
        Raises: CheckpointError if the folder has no tokeniser.
        """
        tokenizer, config = load_tokenizer(source), read_config(source)
        mean, std = image_colours(source)
        return cls(
            tokenizer,
            num_frames=num_frames,
            image_size=config.vision_config.image_size,
            resize="crop",
            antialias=True,
            image_mean=mean,
            image_std=std,
            max_text_tokens=config.text_config.max_position_embeddings,
        )


def image_colours(source: str | Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std of a model folder or hub id, clipvip's or CLIP's; CLIP's own where it names none."""
    settings = _processor_settings(source)
    settings = settings if "image_mean" in settings else image_processor_settings(source)
    return settings.get("image_mean", CLIP_MEAN), settings.get("image_std", CLIP_STD)


def stored_text_cleaning(source: str | Path) -> str:
    """That of a clipvip folder or hub id; "none" for plain CLIP (see `ClipVipProcessor.from_clip`)."""
    return _processor_settings(source).get("text_cleaning", "none")


def _processor_settings(source: str | Path, **options: Any) -> dict[str, Any]:
    """Of a folder or hub id; nothing if there are none. Raises: CheckpointError if they are damaged."""
    name, located = locate(source)
    try:
        if Path(name).is_dir():
            settings = parse_json((Path(name) / PROCESSOR_FILE).read_text(encoding="utf-8"))
            if not isinstance(settings, dict):
                raise ValueError("it holds no settings")
        else:
            from transformers import ProcessorMixin

            settings, _ = ProcessorMixin.get_processor_dict(name, **{**options, **located})
    except OSError:
        return {}
    except ValueError as error:
        raise CheckpointError(f"{source}: {PROCESSOR_FILE} cannot be read: {' '.join(str(error).split())}") from error
    return settings


def image_processor_settings(source: str | Path) -> dict[str, Any]:
    """What the image processor of a model folder or hub id is set to; nothing if there is none."""
    from transformers.image_processing_base import ImageProcessingMixin

    name, options = locate(source)
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(name, **options)
    except OSError:  # folders without one exist; CLIP's mean and std are then the only sensible choice
        return {}
    return settings


def _as_videos(videos: Any) -> list[Media]:
    """A list of frames is one video, a list of anything else several."""
    if isinstance(videos, list | tuple) and videos and all(_is_frame(each) for each in videos):
        return [list(videos)]
    return _as_list(videos)


def _is_frame(item: Any) -> bool:
    return isinstance(item, Image.Image) or (isinstance(item, np.ndarray | Tensor) and item.ndim == 3)


def _as_list(media: Any) -> list[Media]:
    if isinstance(media, tuple) and media and all(_is_frame(each) for each in media):
        media = list(media)
    return list(media) if isinstance(media, list) else [media]
