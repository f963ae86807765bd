"""Videos: what is known of them, their pictures, and the films themselves."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import NotModifiedResponse
from starlette.types import Receive, Scope, Send

from clipvip.search import Segment, VideoRecord
from clipvip.serve.media import ServedFile, leads_out, problem_of, served_file
from clipvip.serve.problems import Problem, busy, not_found
from clipvip.serve.schemas import SegmentOut, VideoOut, errors, errors_beside
from clipvip.serve.services import Services

CACHED = {"Cache-Control": "private, max-age=3600"}
JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}}
FILM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"video/*": {}, "application/octet-stream": {}}},
    304: {"description": "The file has not changed since the version named in If-None-Match"},
    206: {"description": "The range asked for", "content": {"video/*": {}, "multipart/byteranges": {}}},
    400: {"description": "A range that makes no sense", "content": {"text/plain": {}}},
    416: {"description": "A range beyond the end", "content": {"text/plain": {}}},
}


class OpenFileResponse(FileResponse):
    """A file that is open already: what was checked is what is sent. It is closed when that is done.

    media_type: None: by its name.
    """

    def __init__(self, file: BinaryIO, name: str, media_type: str | None):
        self.file = file
        by_descriptor = f"/dev/fd/{file.fileno()}"
        super().__init__(
            by_descriptor if os.path.exists(by_descriptor) else file.name,
            media_type=media_type,
            stat_result=os.fstat(file.fileno()),
            headers={"Cache-Control": "private, no-cache"},
            filename=name,
            content_disposition_type="inline",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.file.close()


def _open_copy(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise busy("the copy for browsers has just made room for others; try again") from None
    except OSError as error:
        raise problem_of(error, "the copy for browsers") from None


def is_new_to(request: Request, response: Response) -> bool:
    """False if the client has this version: its ETag is among those of If-None-Match (RFC 9110, section 13.1.2)."""
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return "*" not in known and response.headers["etag"] not in known


def video_routes(services: Services) -> APIRouter:
    """Routes to the videos of the index of `services`."""
    routes = APIRouter(prefix="/api", tags=["videos"])

    async def file_of(video: VideoRecord) -> ServedFile:
        return await run_sync(served_file, video.root, video.path)

    async def segment_of(segment_id: str) -> tuple[Segment, VideoRecord]:
        snapshot = services.live.current
        video = snapshot.of_segment(segment_id)
        segments = await services.in_turn(partial(snapshot.library.segments_of, video.video_id))
        found = next((segment for segment in segments if segment.segment_id == segment_id), None)
        if found is None:
            raise not_found("segment", segment_id)
        return found, video

    @routes.get("/videos/{video_id}", responses=errors(404, 503))
    async def video(video_id: str) -> VideoOut:
        """What is known of a video, and its segments in the order of time."""
        snapshot = services.live.current
        record = snapshot.video(video_id)
        segments = await services.in_turn(partial(snapshot.library.segments_of, video_id))
        try:
            await file_of(record)
            there = True
        except Problem:
            there = False
        return VideoOut(
            video_id=video_id,
            root=record.root,
            path=record.path,
            size_bytes=record.size_bytes,
            modified=datetime.fromtimestamp(record.mtime_ns / 1e9, UTC),
            duration_s=record.duration_s,
            width=record.width,
            height=record.height,
            there=there,
            segments=[SegmentOut(segment_id=s.segment_id, start_s=s.start_s, end_s=s.end_s) for s in segments],
        )

    @routes.head("/videos/{video_id}/stream", include_in_schema=False)
    @routes.get(
        "/videos/{video_id}/stream", response_class=FileResponse, responses={**errors_beside(404, 503, 507), **FILM}
    )
    async def stream(request: Request, video_id: str, transcode: Literal["auto", "never"] = "auto") -> Response:
        """The video, in ranges if asked for. What browsers cannot play comes as a copy that they can, made at the first
        request and kept; with `transcode=never` the file comes as it is.
        """
        indexed = services.live.current.video(video_id)
        file = await file_of(indexed)
        media_type = await services.media.type_of(file) if transcode == "auto" else None
        if media_type is None and transcode == "auto":
            copy = await services.media.copy_of(file, indexed.duration_s)
            response = OpenFileResponse(await run_sync(_open_copy, copy), f"{file.path.stem}.mp4", "video/mp4")
        else:
            response = OpenFileResponse(await run_sync(file.open), file.path.name, media_type)
        if is_new_to(request, response):
            return response
        response.file.close()
        return NotModifiedResponse(response.headers)

    @routes.get(
        "/segments/{segment_id}/thumbnail", response_class=Response, responses={**errors_beside(404, 503), **JPEG}
    )
    async def thumbnail(segment_id: str) -> Response:
        """The segment's middle frame."""
        snapshot = services.live.current
        indexed = snapshot.of_segment(segment_id)
        if await run_sync(leads_out, indexed.root, indexed.path):
            raise Problem(404, "gone", f"{indexed.path}: leads out of its folder")
        jpeg = await services.in_turn(partial(snapshot.library.thumbnail, segment_id))
        if jpeg is None:  # indexed from embeddings
            segment, video = await segment_of(segment_id)
            jpeg = await services.media.still(await file_of(video), (segment.start_s, segment.end_s))
        return Response(jpeg, media_type="image/jpeg", headers=CACHED)

    @routes.get("/segments/{segment_id}/strip", response_class=Response, responses={**errors_beside(404, 503), **JPEG})
    async def strip(segment_id: str) -> Response:
        """A film strip: six evenly spaced frames of the segment, side by side without gaps."""
        segment, video = await segment_of(segment_id)
        jpeg = await services.media.strip(await file_of(video), (segment.start_s, segment.end_s))
        return Response(jpeg, media_type="image/jpeg", headers=CACHED)

    return routes
