"""The one thread that uses the model. Texts that wait together go through it together.

Shapes: B texts of a batch, T frames, S image size, E embedding size.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from clipvip.encode._protocol import as_list
from clipvip.encode.encoder import Encoder
from clipvip.model.processing_clipvip import Media
from clipvip.progress import step_counter
from clipvip.records import Clip, Embeddings

BATCH_SIZE = 64
NUM_CACHED = 4096
MULTIPLE_OF = 8
"""Tokens: so texts have few lengths, as batches have few sizes."""
Request: TypeAlias = "tuple[str | Callable[[], Any], Future[Any]] | None"
"""A text, or a call that uses the model, and what becomes of it; None: the end."""


class BatchingEncoder:
    """An `Encoder` for many threads: one thread uses the model, and a text that was encoded lately costs nothing.

    Its methods are those of `EncoderProtocol`, and `text` and `pixels`, which do not wait. A context manager.
    """

    def __init__(self, encoder: Encoder, *, num_cached: int = NUM_CACHED):
        self.encoder = encoder
        self._num_cached = num_cached
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()  # of the cache, and of the queue's end
        self._queue: SimpleQueue[Request] = SimpleQueue()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    @property
    def fingerprint(self) -> str:
        """As `Encoder.fingerprint`."""
        return self.encoder.fingerprint

    @property
    def embedding_size(self) -> int:
        """E."""
        return self.encoder.embedding_size

    @property
    def clip_duration_s(self) -> float | None:
        """As `Encoder.clip_duration_s`."""
        return self.encoder.clip_duration_s

    @property
    def num_waiting(self) -> int:
        """Requests that the model has not begun with."""
        return self._queue.qsize()

    def text(self, text: str) -> Future[np.ndarray]:
        """The vector of a text, float32 [E], when the model comes to it."""
        with self._lock:
            known = self._cache.get(text)
            if known is not None:
                self._cache.move_to_end(text)
        if known is None:
            return self._ask(text)
        future: Future[np.ndarray] = Future()
        future.set_result(known)
        return future

    def pixels(self, pixel_values: np.ndarray) -> Future[np.ndarray]:
        """The vector of a video's processed frames float32 [T, 3, S, S], of an image with T = 1: float32 [E]."""
        return self._ask(lambda: self.encoder.encode_pixels(torch.from_numpy(pixel_values[None]))[0])

    def encode_texts(self, texts: Iterable[str], *, progress: bool = False) -> np.ndarray:
        """As `Encoder.encode_texts`. Other requests get their turn after each batch."""
        texts = as_list("encode_texts", texts)
        self.encoder.processor.check_texts(texts)  # one that is no text must not fail the batch of others
        vectors = np.empty((len(texts), self.embedding_size), np.float32)
        with step_counter(progress, "encoding texts", len(texts)) as on_done:
            for start in range(0, len(texts), BATCH_SIZE):
                futures = [self.text(text) for text in texts[start : start + BATCH_SIZE]]
                for row, future in enumerate(futures, start):
                    vectors[row] = future.result()
                on_done(len(futures))
        return vectors

    def encode_images(self, images: Iterable[Media], *, progress: bool = False) -> np.ndarray:
        """As `Encoder.encode_images`. Other requests wait until all are encoded."""
        return self._ask(partial(self.encoder.encode_images, images, progress=progress)).result()

    def encode_videos(self, videos: Iterable[Media], *, progress: bool = False) -> np.ndarray:
        """As `Encoder.encode_videos`. Other requests wait until all are encoded."""
        return self._ask(partial(self.encoder.encode_videos, videos, progress=progress)).result()

    def encode_clips(
        self, clips: Sequence[Clip], *, progress: bool = False, on_decode_error: Literal["raise", "skip"] = "raise"
    ) -> Embeddings:
        """As `Encoder.encode_clips`. Other requests wait until all are encoded."""
        encode = self.encoder.encode_clips
        return self._ask(partial(encode, clips, progress=progress, on_decode_error=on_decode_error)).result()

    def _ask(self, item: str | Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._ended:
                future.cancel()
            else:
                self._queue.put((item, future))
        return future

    def __enter__(self) -> BatchingEncoder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Requests made before are still answered; later ones are cancelled."""
        with self._lock:
            self._ended = True
            self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            requests = [self._queue.get()]
            while len(requests) < BATCH_SIZE and not self._queue.empty():
                requests.append(self._queue.get())
            texts: list[tuple[str, Future[np.ndarray]]] = []
            calls: list[tuple[Callable[[], Any], Future[Any]]] = []
            for request in requests:
                if request is None:
                    continue
                item, future = request
                if future.set_running_or_notify_cancel():
                    if isinstance(item, str):
                        texts.append((item, future))
                    else:
                        calls.append((item, future))
            self._answer_texts(texts)
            for call, future in calls:
                try:
                    future.set_result(call())
                except Exception as error:  # noqa: BLE001 - whatever it is, it is the asker's
                    future.set_exception(error)
            if None in requests:
                return

    def _answer_texts(self, requests: Sequence[tuple[str, Future[np.ndarray]]]) -> None:
        if not requests:
            return
        texts = list(dict.fromkeys(text for text, _ in requests))
        more = texts[-1:] * (_size(len(texts)) - len(texts))
        try:
            rows = self.encoder.encode_texts(texts + more, multiple_of=MULTIPLE_OF)[: len(texts)]
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the askers'
            for _, future in requests:
                future.set_exception(error)
            return
        vectors = {text: row.copy() for text, row in zip(texts, rows, strict=True)}  # a view would keep all B alive
        with self._lock:
            self._cache |= vectors
            while len(self._cache) > self._num_cached:
                self._cache.popitem(last=False)
        for text, future in requests:
            future.set_result(vectors[text])


def _size(count: int) -> int:
    """1, 2, 3, 4, 6, 8, 12, 16, ...: how many texts go through the model, the last of them maybe more than once.

    oneDNN makes kernels for every shape of a batch and keeps them: with all shapes memory would grow for hours.
    """
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if count <= power * 3 // 4 else power
