"""The one thread that uses the model. Texts that wait together go through it together.

Shapes: B texts of a batch, T frames, S image size, E embedding size.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

if TYPE_CHECKING:
    from clipvip.encode import Encoder

BATCH_SIZE = 64
NUM_CACHED = 4096
MULTIPLE_OF = 8
"""Tokens: so texts have few lengths, as batches have few sizes."""
Request: TypeAlias = "tuple[str | np.ndarray, Future[np.ndarray]] | None"


class BatchingEncoder:
    """Vectors float32 [E] for texts and pixels; a text asked again costs nothing.

    A context manager; its methods may be called from any thread.
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
        """The model's."""
        return self.encoder.fingerprint

    @property
    def num_waiting(self) -> int:
        """Texts and pixels that nobody has begun with."""
        return self._queue.qsize()

    def text(self, text: str) -> Future[np.ndarray]:
        """The vector of a text, sooner or later."""
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
        """The vector of a video's processed frames float32 [T, 3, S, S], of a picture with T = 1."""
        return self._ask(pixel_values)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """As `Encoder.encode_texts`: float32 [N, E], N > 0. Waits, a batch at a time, so that others get their turn."""
        vectors: list[np.ndarray] = []
        for start in range(0, len(texts), BATCH_SIZE):
            asked = [self.text(text) for text in texts[start : start + BATCH_SIZE]]
            vectors += [future.result() for future in asked]
        return np.stack(vectors)

    def _ask(self, item: str | np.ndarray) -> Future[np.ndarray]:
        future: Future[np.ndarray] = Future()
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
        """What was asked before is still answered; what is asked later is cancelled."""
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
            media: list[tuple[np.ndarray, Future[np.ndarray]]] = []
            for request in requests:
                if request is None:
                    continue
                item, future = request
                if future.set_running_or_notify_cancel():
                    if isinstance(item, str):
                        texts.append((item, future))
                    else:
                        media.append((item, future))
            self._answer_texts(texts)
            for pixel_values, future in media:
                try:
                    future.set_result(self.encoder.encode_pixels(torch.from_numpy(pixel_values[None]))[0])
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
