"""A model that gets ready in a process of its own while this one does something else.

Importing PyTorch and transformers takes longer than all the rest of one search together, and threads of one process
cannot import at the same time.

Shapes: N items, E embedding size.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from clipvip.errors import ClipVipError
from clipvip.jobs import Worker, WorkerDied

if TYPE_CHECKING:
    import numpy as np

    from clipvip.encode import Encoder
    from clipvip.model.processing_clipvip import Media

T = TypeVar("T")

PATIENCE_S = 24 * 3600.0
"""A model may have to be fetched first; a process that crashes is noticed at once."""


class SubprocessEncoder:
    """An `Encoder` for a handful of inputs: its process begins to import at once. A context manager, which ends it.

    Offers what a search needs; `load` comes first.
    """

    def __init__(self) -> None:
        self._worker = Worker()
        self._thread = ThreadPoolExecutor(1)
        self._imported = self._thread.submit(self._worker.call, _import, timeout_s=PATIENCE_S)

    def load(self, source: str, *, device: str = "auto", dtype: str = "auto") -> SubprocessEncoder:
        """Itself, with that model. Raises: as `clipvip.load`."""
        self.source, self._options = source, (source, device, dtype)
        self.fingerprint, self.embedding_size = self._call(_facts, self._options)
        return self

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """As `Encoder.encode_texts`: float32 [N, E]."""
        return self._call(_encode, self._options, "encode_texts", list(texts))

    def encode_images(self, images: Sequence[Media]) -> np.ndarray:
        """As `Encoder.encode_images`: float32 [N, E]."""
        return self._call(_encode, self._options, "encode_images", list(images))

    def encode_videos(self, videos: Sequence[Media]) -> np.ndarray:
        """As `Encoder.encode_videos`: float32 [N, E]."""
        return self._call(_encode, self._options, "encode_videos", list(videos))

    def __enter__(self) -> SubprocessEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()
        self._thread.shutdown()

    def _call(self, function: Callable[..., T], *args: Any) -> T:
        """What it returns; its warnings are given here."""
        try:
            self._imported.result()
            result, warned = self._worker.call(_noting, function, args, timeout_s=PATIENCE_S)
        except WorkerDied as death:
            raise ClipVipError(f"{self.source}: the process of the model {death}") from None
        for warning in warned:
            warnings.warn(warning, stacklevel=3)
        return result


# In the process of the model:


def _import() -> None:
    gc.disable()  # what is imported stays: looking through it again and again takes a quarter of the time
    from clipvip.encode import load  # noqa: F401  # with torch


@cache
def _encoder(source: str, device: str, dtype: str) -> Encoder:
    from clipvip.encode import load

    return load(source, device=device, dtype=dtype, optimize=False)


def _facts(options: tuple[str, str, str]) -> tuple[str, int]:
    encoder = _encoder(*options)
    return encoder.fingerprint, encoder.embedding_size


def _encode(options: tuple[str, str, str], method: str, items: Sequence[Any]) -> np.ndarray:
    return getattr(_encoder(*options), method)(items)


def _noting(function: Callable[..., T], args: Sequence[Any]) -> tuple[T, list[Warning]]:
    """What it returns, and the warnings it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        result = function(*args)
    return result, [entry.message for entry in caught if isinstance(entry.message, Warning)]
