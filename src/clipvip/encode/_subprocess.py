"""A model that gets ready in a process of its own while this one does something else.

Importing PyTorch and transformers takes longer than all the rest of one search together, and threads of one process
cannot import at the same time.

Shapes: N items, E embedding size.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from clipvip.encode._protocol import as_list
from clipvip.errors import ClipVipError, UsageError
from clipvip.jobs import Worker, WorkerDied

if TYPE_CHECKING:
    import numpy as np

    from clipvip.encode.encoder import Encoder
    from clipvip.model.processing_clipvip import Media
    from clipvip.records import Clip, Embeddings

T = TypeVar("T")

PATIENCE_S = 24 * 3600.0
"""A model may have to be fetched first; a process that crashes is noticed at once."""


class SubprocessEncoder:
    """An `Encoder` for a handful of inputs: its process begins to import at once. A context manager, which ends it.

    Its methods are those of `EncoderProtocol`. source, device, dtype: as `clipvip.load`, which the process calls when
    the model is first needed; until then `source` can be set. Raises: as `clipvip.load`, at that time.
    """

    def __init__(self, source: str = "", *, device: str = "auto", dtype: str = "auto") -> None:
        self.source, self._device, self._dtype = source, device, dtype
        self._worker = Worker()
        self._thread = ThreadPoolExecutor(1)
        self._imported = self._thread.submit(self._worker.call, _import, timeout_s=PATIENCE_S)

    @property
    def fingerprint(self) -> str:
        """As `Encoder.fingerprint`."""
        return self._facts[0]

    @property
    def embedding_size(self) -> int:
        """E."""
        return self._facts[1]

    @property
    def clip_duration_s(self) -> float | None:
        """As `Encoder.clip_duration_s`."""
        return self._facts[2]

    def encode_texts(self, texts: Iterable[str], *, progress: bool = False) -> np.ndarray:
        """As `Encoder.encode_texts`: float32 [N, E]."""
        return self._call(_encode, "encode_texts", as_list("encode_texts", texts), {"progress": progress})

    def encode_images(self, images: Iterable[Media], *, progress: bool = False) -> np.ndarray:
        """As `Encoder.encode_images`: float32 [N, E]."""
        return self._call(_encode, "encode_images", as_list("encode_images", images), {"progress": progress})

    def encode_videos(self, videos: Iterable[Media], *, progress: bool = False) -> np.ndarray:
        """As `Encoder.encode_videos`: float32 [N, E]."""
        return self._call(_encode, "encode_videos", as_list("encode_videos", videos), {"progress": progress})

    def encode_clips(
        self, clips: Sequence[Clip], *, progress: bool = False, on_decode_error: Literal["raise", "skip"] = "raise"
    ) -> Embeddings:
        """As `Encoder.encode_clips`."""
        options = {"progress": progress, "on_decode_error": on_decode_error}
        return self._call(_encode, "encode_clips", list(clips), options)

    def __enter__(self) -> SubprocessEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()
        self._thread.shutdown()

    @cached_property
    def _facts(self) -> tuple[str, int, float | None]:
        return self._call(_read_facts)

    def _call(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function(encoder, *args)` in the process; its warnings are repeated here."""
        if not self.source:
            raise UsageError("which model? Name a model folder or hub id (--model)")
        model = (self.source, self._device, self._dtype)
        try:
            self._imported.result()
            result, caught = self._worker.call(_catch_warnings, function, model, args, timeout_s=PATIENCE_S)
        except WorkerDied as death:
            raise ClipVipError(f"{self.source}: the process of the model {death}") from None
        for warning in caught:
            warnings.warn(warning, stacklevel=3)
        return result


# In the process of the model:


def _import() -> None:
    gc.disable()  # what is imported stays: looking through it again and again takes a quarter of the time
    from clipvip.encode import load  # noqa: F401  # with torch


@cache
def _load(source: str, device: str, dtype: str) -> Encoder:
    from clipvip.encode import load

    return load(source, device=device, dtype=dtype, optimize=False)


def _read_facts(encoder: Encoder) -> tuple[str, int, float | None]:
    return encoder.fingerprint, encoder.embedding_size, encoder.clip_duration_s


def _encode(encoder: Encoder, method: str, items: Sequence[Any], options: dict[str, Any]) -> Any:
    return getattr(encoder, method)(items, **options)


def _catch_warnings(
    function: Callable[..., T], model: tuple[str, str, str], args: Sequence[Any]
) -> tuple[T, list[Warning]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        result = function(_load(*model), *args)
    return result, [entry.message for entry in caught if isinstance(entry.message, Warning)]
