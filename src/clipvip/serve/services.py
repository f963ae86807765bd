"""What the routes work with: one index, one model, and the processes that decode and index for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync

from clipvip.encode import BatchingEncoder, Encoder
from clipvip.jobs import usable_cpus
from clipvip.search import Library, Query, Results, Term
from clipvip.serve.config import ServeConfig
from clipvip.serve.decoding import Sampling
from clipvip.serve.indexing import IndexJobs, Task
from clipvip.serve.live import Live, Snapshot
from clipvip.serve.media import Media
from clipvip.serve.problems import busy
from clipvip.serve.schemas import FiltersBody, Options, TermBody
from clipvip.serve.uploads import Uploads

T = TypeVar("T")


class Services:
    """They run while `running` does. task: an index job without its folder; closing: set when the server is to end."""

    def __init__(self, task: Task, encoder: Encoder, config: ServeConfig):
        self.task, self.config = task, config
        self.closing = threading.Event()
        self.model = BatchingEncoder(encoder)
        self.live = Live(partial(Library, task.uri, self.model))
        self.media = Media(config)
        self.uploads = Uploads(config, Sampling.of(encoder.processor))
        self.jobs = IndexJobs(config.cache / "jobs.json", self.live.renew)
        self._searching = anyio.CapacityLimiter(usable_cpus())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything is up; afterwards it is down, and no process is left."""
        watching = asyncio.create_task(self.live.watch())
        try:
            with self.model, self.media, self.uploads, self.jobs:
                yield
        finally:
            watching.cancel()

    async def search(
        self, bodies: list[TermBody], filters: FiltersBody, options: Options
    ) -> tuple[Results, Snapshot, Query]:
        """The answers, the version of the index that they are from, and what was asked. Raises: Problem; UsageError."""
        snapshot = self.live.current
        query = options.to_query(await self.terms(bodies, snapshot), filters)
        return await self.in_turn(partial(snapshot.library.search, query)), snapshot, query

    async def terms(self, bodies: list[TermBody], snapshot: Snapshot) -> tuple[Term, ...]:
        """What to look for, with vectors; texts are encoded together with those of other requests.

        Raises: Problem.
        """
        self.admit()
        asked = {body.text: asyncio.wrap_future(self.model.text(body.text)) for body in bodies if body.text is not None}
        terms = []
        for body in bodies:
            if body.text is not None:
                term = Term(text=body.text, vector=await asked[body.text], weight=body.weight)
            elif body.upload_id is not None:
                term = Term(vector=self.uploads.find(body.upload_id).vector, weight=body.weight)
            else:
                assert body.segment_id is not None
                term = Term(
                    segment=body.segment_id,
                    vector=await self.in_turn(partial(snapshot.vector, body.segment_id)),
                    weight=body.weight,
                )
            terms.append(term)
        return tuple(terms)

    def admit(self) -> None:
        """Raises: Problem if too much waits for the model already."""
        if self.model.num_waiting >= self.config.max_waiting:
            raise busy("too many searches at once; try again")

    async def in_turn(self, work: Callable[[], T]) -> T:
        """`work()` in one of a few threads. Raises: Problem if too many wait for one already."""
        if self._searching.statistics().tasks_waiting >= self.config.max_waiting:
            raise busy("too many searches at once; try again")
        return await run_sync(work, limiter=self._searching)
