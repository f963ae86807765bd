"""Encoding by all processes of a run.

Shapes: N items, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from clipvip import distributed
from clipvip.encode._protocol import as_list, check_some_left, text_batches
from clipvip.encode.encoder import Encoder
from clipvip.model.processing_clipvip import Media
from clipvip.progress import step_counter
from clipvip.records import Clip, Embeddings

Item = TypeVar("Item")


class DistributedEncoder:
    """An `Encoder` whose work is shared out among the processes of a run; all get all rows, in the order given.

    Batches are cut first and shared out then: the vectors are those of one process, to the last bit if the same kernels
    compute them (on CPUs `load` times kernels and takes the fastest; those differ by 2e-7). An error of one process is
    raised by all. Without other processes it is that encoder. Its methods are those of `EncoderProtocol`.
    """

    def __init__(self, encoder: Encoder, *, batch_size: int = 16, text_batch_size: int = 256):
        self.encoder = encoder
        self.batch_size = batch_size
        self.text_batch_size = text_batch_size

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
    def dtype(self) -> str:
        """As `Encoder.dtype`."""
        return self.encoder.dtype

    @property
    def sampling(self) -> dict[str, Any]:
        """As `Encoder.sampling`."""
        return self.encoder.sampling

    def encode_texts(self, texts: Iterable[str], *, progress: bool = False) -> np.ndarray:
        """As `Encoder.encode_texts`."""
        texts = as_list("encode_texts", texts)
        self.encoder.processor.check_texts(texts)
        batches = text_batches(texts, self.text_batch_size)

        def encode_share() -> list[np.ndarray]:
            vectors, mine = [], batches[distributed.rank() :: distributed.world()]
            with step_counter(_is_shown(progress), "encoding texts", sum(map(len, mine))) as on_done:
                for rows in mine:
                    vectors.append(self.encoder.encode_texts([texts[row] for row in rows], batch_size=len(rows)))
                    on_done(len(rows))
            return vectors

        vectors = np.empty((len(texts), self.embedding_size), np.float32)
        for number, share in enumerate(distributed.together(encode_share)):
            for rows, part in zip(batches[number :: distributed.world()], share, strict=True):
                vectors[rows] = part
        return vectors

    def encode_images(self, images: Iterable[Media], *, progress: bool = False) -> np.ndarray:
        """As `Encoder.encode_images`."""
        return self._encode_media(self.encoder.encode_images, as_list("encode_images", images), progress)

    def encode_videos(self, videos: Iterable[Media], *, progress: bool = False) -> np.ndarray:
        """As `Encoder.encode_videos`."""
        return self._encode_media(self.encoder.encode_videos, as_list("encode_videos", videos), progress)

    def encode_clips(
        self, clips: Sequence[Clip], *, progress: bool = False, on_decode_error: Literal["raise", "skip"] = "raise"
    ) -> Embeddings:
        """As `Encoder.encode_clips`."""
        size = self.batch_size

        def encode_share() -> Embeddings:
            mine = _share(clips, size, distributed.rank())
            with step_counter(_is_shown(progress), "encoding clips", len(mine)) as on_done:
                return self.encoder.encode_decodable(
                    mine, batch_size=size, on_decode_error=on_decode_error, on_done=on_done
                )

        shares = distributed.together(encode_share)
        vectors = {id_: row for share in shares for id_, row in zip(share.ids, share.vectors, strict=True)}
        reasons = {id_: reason for share in shares for id_, reason in share.skipped.items()}
        ids = tuple(clip.clip_id for clip in clips if clip.clip_id not in reasons)
        skipped = {clip.clip_id: reasons[clip.clip_id] for clip in clips if clip.clip_id in reasons}
        rows = np.stack([vectors[id_] for id_ in ids]) if ids else shares[0].vectors[:0]
        embeddings = Embeddings(ids, rows, shares[0].fingerprint, skipped)
        check_some_left(clips, embeddings)
        return embeddings

    def _encode_media(self, encode: Callable[..., np.ndarray], items: list[Media], progress: bool) -> np.ndarray:
        def encode_share() -> np.ndarray:
            mine = _share(items, self.batch_size, distributed.rank())
            return encode(mine, batch_size=self.batch_size, progress=_is_shown(progress))

        vectors = np.empty((len(items), self.embedding_size), np.float32)
        for number, share in enumerate(distributed.together(encode_share)):
            vectors[_share(range(len(items)), self.batch_size, number)] = share
        return vectors


def _share(items: Sequence[Item], size: int, number: int) -> list[Item]:
    """The items of process `number`: of the batches of `size`, every world-th one."""
    starts = range(number * size, len(items), distributed.world() * size)
    return [item for start in starts for item in items[start : start + size]]


def _is_shown(progress: bool) -> bool:
    return progress and distributed.rank() == 0
