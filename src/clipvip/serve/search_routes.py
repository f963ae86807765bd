"""Searches, uploads to search by, and the timeline of one video."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response, UploadFile
from fastapi import Query as InAddress
from fastapi.routing import APIRoute

from clipvip.search import Query
from clipvip.serve.guard import FORM_BYTES
from clipvip.serve.schemas import (
    MAX_OFFSET,
    FiltersBody,
    HitOut,
    Options,
    ScoredSegment,
    SearchBody,
    SearchOut,
    SearchParams,
    TermBody,
    TermParams,
    TermsBody,
    TimelineOut,
    UploadOut,
    errors,
)
from clipvip.serve.services import Services

OF_HIT = ("rank", "score", "video_id", "segment_id", "start_s", "end_s")


def search_routes(services: Services) -> APIRouter:
    """Routes that search the index of `services`."""
    routes = APIRouter(prefix="/api", tags=["search"])

    async def searched(terms: list[TermBody], filters: FiltersBody, options: Options) -> SearchOut:
        started = time.perf_counter()
        results, snapshot, query = await services.search(terms, filters, options)
        hits = []
        for hit in results if results.found else ():
            video = snapshot.video(hit.video_id)
            facts = {name: getattr(video, name) for name in ("root", "path", "duration_s", "width", "height")}
            hits.append(HitOut(**{name: getattr(hit, name) for name in OF_HIT}, **facts))
        end = options.offset + len(hits)
        return SearchOut(
            query=str(query),
            found=bool(hits),
            p_value=results.p_value,
            total=snapshot.status.segments,
            took_ms=round((time.perf_counter() - started) * 1000, 2),
            results=hits,
            next_offset=end if len(hits) == options.k and end <= MAX_OFFSET else None,
        )

    @routes.get("/search", responses=errors(404, 503))
    async def search(params: Annotated[SearchParams, InAddress()]) -> SearchOut:
        """Search by a text, by what is like a segment (`similar_to`), or by both."""
        return await searched(params.terms(), params, params)

    @routes.post("/search", responses=errors(400, 404, 413, 503))
    async def search_by_terms(body: SearchBody) -> SearchOut:
        """Search by any number of texts, segments and uploads; those of negative weight are what answers should not
        look like.
        """
        return await searched(body.terms, body.filters, body)

    async def timeline(video_id: str, terms: list[TermBody]) -> TimelineOut:
        snapshot = services.live.current
        snapshot.video(video_id)
        query = Query(terms=await services.terms(terms, snapshot))
        scored = await services.in_turn(partial(snapshot.library.timeline, video_id, query))
        rows = [
            ScoredSegment(segment_id=segment.segment_id, start_s=segment.start_s, end_s=segment.end_s, score=score)
            for segment, score in scored
        ]
        return TimelineOut(query=str(query), video_id=video_id, segments=rows)

    @routes.get("/videos/{video_id}/hits", responses=errors(404, 503))
    async def hits_within(video_id: str, params: Annotated[TermParams, InAddress()]) -> TimelineOut:
        """How well each segment of one video answers, in the order of time."""
        return await timeline(video_id, params.terms())

    @routes.post("/videos/{video_id}/hits", responses=errors(400, 404, 413, 503))
    async def hits_within_by_terms(video_id: str, body: TermsBody) -> TimelineOut:
        """The same for any number of terms."""
        return await timeline(video_id, body.terms)

    class UploadRoute(APIRoute):
        """Dependencies come too late: FastAPI reads the body before."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def in_place(request: Request) -> Response:
                services.admit()
                with services.uploads.place(request.client.host if request.client else ""):
                    return await handle(request)

            return in_place

    uploads = APIRouter(route_class=UploadRoute)

    @uploads.post(
        "/uploads",
        responses=errors(400, 408, 413, 503),
        form_limits={"max_files": 1, "max_fields": 4, "max_part_size": FORM_BYTES},
    )
    async def upload(file: UploadFile) -> UploadOut:
        """A picture or a clip to search by: its `upload_id` goes into the terms of a search. The file is not kept."""
        kind, pixels = await services.uploads.decode(file.file)
        vector = await asyncio.wrap_future(services.model.pixels(pixels))
        upload_id = services.uploads.keep(kind, vector)
        return UploadOut(upload_id=upload_id, kind=kind, expires_in_s=services.config.upload_keep_s)

    routes.include_router(uploads)
    return routes
