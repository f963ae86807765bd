"""What is in the index, and jobs that change it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends
from fastapi.sse import EventSourceResponse, ServerSentEvent

from clipvip import __version__
from clipvip.serve.indexing import Job
from clipvip.serve.problems import Problem
from clipvip.serve.schemas import (
    Health,
    JobBody,
    JobsOut,
    LibrariesOut,
    StatusOut,
    errors,
    errors_beside,
)
from clipvip.serve.services import Services

LOOK_S = 0.2
"""How often the progress of a job is looked at for those who follow it."""


def index_routes(services: Services) -> APIRouter:
    """Routes to the index of `services` as a whole."""
    routes = APIRouter(prefix="/api", tags=["index"])
    jobs = services.jobs

    @routes.get("/health")
    async def health() -> Health:
        """Whether the server answers; needs no token."""
        return Health(version=__version__)

    @routes.get("/status", responses=errors())
    async def status() -> StatusOut:
        """What is in the index, which files could not be indexed, and what is going on."""
        now = services.live.current.status
        settings = now.settings
        return StatusOut(
            videos=now.videos,
            segments=now.segments,
            hours=now.hours,
            bytes=now.num_bytes,
            model=Path(settings.model).name if os.path.isabs(settings.model) else settings.model,
            fingerprint=settings.fingerprint,
            roots=[root.root for root in now.roots],
            failures=list(now.failures),
            jobs=jobs.all()[:1],
            allow_new_roots=services.config.allow_new_roots,
            examples=list(services.config.examples) or None,
        )

    @routes.get("/libraries", responses=errors())
    async def libraries() -> LibrariesOut:
        """The folders of the index, each with what is in it."""
        return LibrariesOut(libraries=list(services.live.current.status.roots))

    @routes.get("/jobs", responses=errors())
    async def all_jobs() -> JobsOut:
        """Index jobs, the latest first."""
        return JobsOut(jobs=jobs.all())

    @routes.post("/jobs", status_code=201, responses=errors(400, 404, 409, 413))
    async def start(body: JobBody) -> Job:
        """Index a folder (one that was indexed before, or one below it), or take files that are gone out of the index.

        Only what is new or changed is encoded; a job that was interrupted goes on.
        """
        folder = None if body.dir is None else await run_sync(_allowed, services, body.dir)
        return await run_sync(jobs.start, replace(services.task, dir=folder))

    async def known(job_id: str) -> Job:  # before the stream begins: then it is too late for a status
        return jobs.find(job_id)

    @routes.get("/jobs/{job_id}", responses=errors(404))
    async def job(job_id: str) -> Job:
        """How far a job is."""
        return jobs.find(job_id)

    @routes.get("/jobs/{job_id}/events", response_class=EventSourceResponse, responses=errors_beside(404))
    async def events(job: Job = Depends(known)) -> AsyncIterator[ServerSentEvent]:
        """The progress of a job as server-sent events, each the job as it is then; they end with it."""
        last: Job | None = None
        while not services.closing.is_set():
            now = jobs.find(job.job_id)
            if now is not last:
                last = now
                yield ServerSentEvent(data=now)
            if now.state != "running":
                return
            await asyncio.sleep(LOOK_S)

    @routes.delete("/jobs/{job_id}", responses=errors(404))
    async def cancel(job_id: str) -> Job:
        """End a job; what it has committed stays."""
        return await run_sync(jobs.cancel, job_id)

    return routes


def _allowed(services: Services, folder: str) -> str:
    """The folder to index, if it may be. Raises: Problem."""
    top = os.path.abspath(folder)  # as the job takes it: "link/.." is where the link is, not above what it points to
    absolute = os.path.isabs(folder)
    if not services.config.allow_new_roots and not (
        absolute and any(_is_within(top, root) for root in services.live.current.library.roots)
    ):
        # the same answer whether it is there or not
        raise Problem(
            403,
            "not_registered",
            "dir: only folders that were added to the index, and those below (or serve --allow-new-roots)",
        )
    if not absolute or not os.path.isdir(top):
        raise Problem(404, "not_found", "dir: no folder of that name; give its absolute path")
    return top


def _is_within(folder: str, root: str) -> bool:
    """Whether it is, both by its name and once links are followed."""
    return Path(folder).is_relative_to(root) and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))
