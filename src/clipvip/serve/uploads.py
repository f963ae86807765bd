"""What people search by: pictures and clips that they upload. Only the vector is kept, and for a while only."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from typing import BinaryIO, Literal

import anyio
import numpy as np
from anyio.to_thread import run_sync

from clipvip.errors import VideoDecodeError
from clipvip.jobs import Worker, WorkerDied
from clipvip.serve.config import ServeConfig
from clipvip.serve.decoding import Sampling, pixels_of
from clipvip.serve.problems import Problem, busy

logger = logging.getLogger(__name__)
MEMORY_BYTES = 3 << 30
"""Address space of the process that decodes uploads, torch included."""
TIME_S = 30.0
MAX_UPLOADS = 16
"""At once, from the first byte to the vector."""
MAX_UPLOADS_OF_ONE = 8
"""Of one client."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What is left of an uploaded file: a vector float32 [E], and until when."""

    kind: Literal["image", "video"]
    vector: np.ndarray
    until_s: float


class Uploads:
    """Decodes uploads in a process with limited memory and time, one at a time. A context manager."""

    def __init__(self, config: ServeConfig, sampling: Sampling, clock: Callable[[], float] = time.monotonic):
        self._config, self._sampling, self._clock = config, sampling, clock
        self._worker = Worker(memory_bytes=MEMORY_BYTES)
        self._turn = anyio.CapacityLimiter(1)
        self._under_way: Counter[str] = Counter()  # by client
        self._uploads: OrderedDict[str, Upload] = OrderedDict()

    @contextmanager
    def place(self, client: str) -> Iterator[None]:
        """A place for one upload, to be taken before its body is read. Raises: Problem if there is none."""
        if self._under_way.total() >= MAX_UPLOADS or self._under_way[client] >= MAX_UPLOADS_OF_ONE:
            raise busy("too many uploads at once; try again")
        self._under_way[client] += 1
        try:
            yield
        finally:
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]

    async def decode(self, file: BinaryIO) -> tuple[Literal["image", "video"], np.ndarray]:
        """What kind of media it is, and its pixels float32 [T, 3, S, S].

        Raises: Problem if it is none, damaged, or takes too much time or memory.
        """
        return await run_sync(self._decode, file, limiter=self._turn)

    def keep(self, kind: Literal["image", "video"], vector: np.ndarray) -> str:
        """The id under which the vector can be found for a while."""
        now = self._clock()
        while self._uploads and (
            len(self._uploads) >= self._config.num_uploads or next(iter(self._uploads.values())).until_s < now
        ):
            self._uploads.popitem(last=False)
        upload_id = secrets.token_urlsafe(16)
        self._uploads[upload_id] = Upload(kind, vector, now + self._config.upload_keep_s)
        return upload_id

    def find(self, upload_id: str) -> Upload:
        """Raises: Problem if there is no such upload, or not any more."""
        upload = self._uploads.get(upload_id)
        if upload is None or upload.until_s < self._clock():
            raise Problem(404, "not_found", "upload_id: unknown or expired; upload the file again")
        return upload

    def __enter__(self) -> Uploads:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    def _decode(self, file: BinaryIO) -> tuple[Literal["image", "video"], np.ndarray]:
        with NamedTemporaryFile(prefix="clipvip-upload-") as copy:  # readable for this user only
            size = 0
            while block := file.read(1 << 20):
                copy.write(block)
                size += len(block)
            copy.flush()
            if size == 0:
                raise Problem(422, "empty", "the uploaded file is empty")
            try:
                return self._worker.call(pixels_of, copy.name, self._sampling, timeout_s=TIME_S, retry=True)
            except WorkerDied as error:
                if error.killed:
                    raise busy("the process that decodes uploads was killed, perhaps for want of memory") from None
                raise Problem(422, "undecodable", f"the uploaded file: the process that decoded it {error}") from None
            except VideoDecodeError as error:
                told = str(error).replace(copy.name, "the uploaded file").replace(os.path.basename(copy.name), "it")
                raise Problem(422, "undecodable", told) from None
            except (ArithmeticError, LookupError, OSError, RuntimeError, ValueError) as error:
                # decoders of hostile files fail in many ways, and all are the file's fault
                logger.warning("an upload could not be decoded", exc_info=error)
                raise Problem(422, "undecodable", "the uploaded file: damaged, or no picture or video") from None
