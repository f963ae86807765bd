"""The one inference path: files and texts to unit-norm embeddings.

Evaluation, validation during training, the search index and notebooks all come through `Encoder`.

Shapes: N items, T frames, S image size, E embedding size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from clipvip.encode._protocol import EncoderProtocol, as_list, check_some_left, text_batches
from clipvip.errors import InputError, UsageError, VideoDecodeError
from clipvip.jobs import prefetch
from clipvip.model import ClipVipCore, ClipVipProcessor
from clipvip.model.kernels import compute_dtype
from clipvip.model.processing_clipvip import ADDED_SINCE, Media
from clipvip.progress import step_counter
from clipvip.records import Clip, Embeddings


class Encoder:
    """A model with its processor, ready for inference.

    Use `clipvip.load(folder)` to get one, with a model that is optimised for inference; one of your own around a model
    in training gives the same embeddings. Vectors are float32 NumPy arrays [N, E] of unit norm, in the order given.
    source: the folder or hub id that it can be loaded from again, if there is one.
    """

    def __init__(self, model: ClipVipCore, processor: ClipVipProcessor, source: str | None = None):
        self.model = model
        self.processor = processor
        self.source = source

    @property
    def embedding_size(self) -> int:
        """E."""
        return self.model.config.projection_dim

    @property
    def clip_duration_s(self) -> float | None:
        """Mean duration of the clips that the model was trained on; None if it is not recorded."""
        return self.model.config.clip_duration_s

    @property
    def dtype(self) -> str:
        """What the model computes in: "float32" or "bfloat16"."""
        return str(compute_dtype(self.model)).removeprefix("torch.")

    @property
    def sampling(self) -> dict[str, Any]:
        """What figures depend on beside the weights: frames, their size and resizing, how texts are cleaned and cut."""
        names = ("num_frames", "image_size", "resize", "resize_in", "antialias", "max_text_tokens", "text_cleaning")
        return {name: getattr(self.processor, name) for name in names}

    @cached_property
    def fingerprint(self) -> str:
        """Identifies weights, processor and sampling (not dtype or device): embeddings compare only if it agrees.

        Raises: UsageError if the model was optimised for inference before this was first asked for.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            if name != "logit_scale":  # scales similarities, changes no embedding
                digest.update(name.encode())
                digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
        config = self.model.config
        tokenizer = json.loads(self.processor.tokenizer.backend_tokenizer.to_str())
        settings = {
            "processor": {
                key: value
                for key, value in self.processor.to_dict().items()
                if key != "processor_class" and not (key in ADDED_SINCE and value == ADDED_SINCE[key])
            },
            # truncation and padding are left from the last call, not part of what the tokeniser is
            "tokenizer": {k: v for k, v in tokenizer.items() if k not in ("truncation", "padding")},
            "end_token": config.text_config.eos_token_id,
            "aggregator": config.aggregator,
            "heads": [config.text_config.num_attention_heads, config.vision_config.num_attention_heads],
            "act": [config.text_config.hidden_act, config.vision_config.hidden_act],
            "eps": [config.text_config.layer_norm_eps, config.vision_config.layer_norm_eps],
        }
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        return digest.hexdigest()[:16]

    def encode_videos(self, videos: Iterable[Media], *, batch_size: int = 16, progress: bool = False) -> np.ndarray:
        """Videos to float32 [N, E]. videos: paths, (path, start_s, end_s), or uint8 frames [T, H, W, 3].

        Raises: VideoDecodeError for the first file that cannot be decoded.
        """
        videos = as_list("encode_videos", videos)
        with step_counter(progress, "encoding videos", len(videos)) as on_done:
            return self._encode_media(videos, self.processor.video_pixels, batch_size, on_done)

    def encode_images(self, images: Iterable[Media], *, batch_size: int = 64, progress: bool = False) -> np.ndarray:
        """Images to float32 [N, E], each as a one-frame video. images: paths, or uint8 [H, W, 3]."""
        images = as_list("encode_images", images)
        with step_counter(progress, "encoding images", len(images)) as on_done:
            return self._encode_media(images, self.processor.image_pixels, batch_size, on_done)

    def encode_texts(
        self, texts: Iterable[str], *, batch_size: int = 256, multiple_of: int = 1, progress: bool = False
    ) -> np.ndarray:
        """Texts to float32 [N, E]. multiple_of: as in `ClipVipProcessor.tokenize`, for batches of fewer shapes."""
        texts = as_list("encode_texts", texts)
        self.processor.check_texts(texts)
        vectors = np.empty((len(texts), self.embedding_size), np.float32)
        with step_counter(progress, "encoding texts", len(texts)) as on_done:
            for rows in text_batches(texts, batch_size):
                tokens = self.processor.tokenize([texts[i] for i in rows], multiple_of=multiple_of)
                with torch.inference_mode():
                    features = self.model.encode_text(tokens["input_ids"].to(self.model.device))
                vectors[rows] = features.float().cpu().numpy()
                on_done(len(rows))
        return vectors

    def encode_clips(
        self,
        clips: Sequence[Clip],
        *,
        batch_size: int = 16,
        progress: bool = False,
        on_decode_error: Literal["raise", "skip"] = "raise",
    ) -> Embeddings:
        """The clips of a manifest, videos and images alike; with "skip", those that can be decoded.

        Raises: VideoDecodeError for the first clip that cannot be decoded, or with "skip" if there is no other.
        """
        with step_counter(progress, "encoding clips", len(clips)) as on_done:
            embeddings = self.encode_decodable(
                clips, batch_size=batch_size, on_decode_error=on_decode_error, on_done=on_done
            )
        check_some_left(clips, embeddings)
        return embeddings

    def encode_decodable(
        self,
        clips: Sequence[Clip],
        *,
        batch_size: int = 16,
        on_decode_error: Literal["raise", "skip"] = "skip",
        on_done: Callable[[], object] = lambda: None,
    ) -> Embeddings:
        """`encode_clips`, which may leave nothing. on_done: called after each clip."""
        skipped: dict[int, str] = {}

        def pixels(numbered: tuple[int, Clip]) -> Tensor | None:
            row, clip = numbered
            try:
                return self.processor.clip_pixels(clip)
            except VideoDecodeError as error:
                if on_decode_error == "raise":
                    raise
                skipped[row] = str(error)
                return None

        vectors = self._encode_media(list(enumerate(clips)), pixels, batch_size, on_done)
        rows = [row for row in range(len(clips)) if row not in skipped]
        reasons = {clips[row].clip_id: skipped[row] for row in sorted(skipped)}
        return Embeddings(tuple(clips[row].clip_id for row in rows), vectors[rows], self.fingerprint, reasons)

    def encode_pixels(self, pixel_values: Tensor) -> np.ndarray:
        """Processed pixels [B, T, 3, S, S] to float32 [B, E]: for callers that decode on their own.

        Raises: InputError naming the first row whose pixels (or the model's weights) are not finite.
        """
        with torch.inference_mode():
            features = self.model.encode_video(pixel_values.to(self.model.device, self.model.dtype))
        vectors = features.float().cpu().numpy()
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            row = int(finite.argmin())
            what = "the model's weights" if pixel_values[row].isfinite().all() else f"pixel_values[{row}]"
            raise InputError(f"{what}: NaN or infinite values, so no embedding")
        return vectors

    def _encode_media(
        self,
        items: Sequence[Any],
        to_pixels: Callable[[Any], Tensor | None],
        batch_size: int,
        on_done: Callable[[], object],
    ) -> np.ndarray:
        """Vectors [N, E]; where there are no pixels the row means nothing. on_done: called after each item.

        A batch is what can be decoded of `batch_size` items in a row: whatever else is encoded, and by whom, an item
        meets the same ones (the last bits of a vector depend on them).
        """
        vectors = np.empty((len(items), self.embedding_size), np.float32)
        waiting: dict[int, list[tuple[int, Tensor]]] = {}  # by T: single-frame files cannot share a batch with videos
        for row, pixels in enumerate(prefetch(to_pixels, items, ahead=2 * batch_size)):
            if pixels is not None:
                waiting.setdefault(len(pixels), []).append((row, pixels))
            if (row + 1) % batch_size == 0 or row + 1 == len(items):
                for batch in waiting.values():
                    vectors[[row for row, _ in batch]] = self.encode_pixels(
                        torch.stack([pixels for _, pixels in batch])
                    )
                waiting.clear()
            on_done()
        return vectors


def local_encoder(encoder: EncoderProtocol) -> Encoder:
    """The encoder, as one that encodes frames that were decoded elsewhere.

    Raises: UsageError for one whose model is not in this process.
    """
    if not isinstance(encoder, Encoder):
        raise UsageError(
            f"a {type(encoder).__name__} encodes queries, not the frames of an index; give clipvip.load(...), or a "
            "model folder or hub id"
        )
    return encoder
