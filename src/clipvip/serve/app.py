"""The application: routes, guard, errors and the page, around one library and one model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

from clipvip import __version__
from clipvip.encode import Encoder
from clipvip.search import Library
from clipvip.serve.catalog import Catalog
from clipvip.serve.config import ServeConfig
from clipvip.serve.guard import Guard
from clipvip.serve.model_worker import ModelWorker
from clipvip.serve.problems import Problem, handle_problems, not_found
from clipvip.serve.schemas import Health, SearchAnswer, Status, Video

BODY_BYTES = 1 << 20
"""Of a request that is no upload."""


def create_app(library: Library, encoder: Encoder, config: ServeConfig) -> FastAPI:
    """An ASGI application that serves `library`; `encoder` is the model that it was made with."""
    catalog = Catalog(library)
    worker = ModelWorker(encoder)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with worker:
            yield

    app = FastAPI(
        title="clipvip",
        version=__version__,
        description="Search a library of videos by what is seen in them.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # both pages would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        max_body_size=BODY_BYTES,
    )
    handle_problems(app)
    app.add_middleware(Guard, config=config)

    @app.get("/api/health")
    async def health() -> Health:
        return Health(version=__version__)

    @app.get("/api/status")
    async def status() -> Status:
        return Status(
            videos=len(catalog.videos),
            segments=len(catalog.rows),
            hours=sum(catalog.rows[numbers[0]]["duration_s"] for numbers in catalog.videos.values()) / 3600,
            model=library.settings.model,
            fingerprint=library.settings.fingerprint,
            roots=catalog.roots,
        )

    @app.get("/api/search")
    async def search(
        q: Annotated[str, Query(min_length=1, max_length=2000)],
        k: Annotated[int, Query(ge=1, le=200)] = 20,
        offset: Annotated[int, Query(ge=0, le=10_000)] = 0,
    ) -> SearchAnswer:
        started = time.perf_counter()
        vector = await asyncio.wrap_future(worker.text(q))
        results = await run_in_threadpool(lambda: list(catalog.search(vector, k, offset)))
        end = offset + len(results)
        return SearchAnswer.model_validate(
            {
                "query": q,
                "found": bool(results),
                "p_value": None,
                "total": len(catalog.rows),
                "took_ms": round((time.perf_counter() - started) * 1000, 2),
                "results": results,
                "next_offset": end if end < len(catalog.rows) and results else None,
            }
        )

    @app.get("/api/videos/{video_id}")
    async def video(video_id: str) -> Video:
        numbers = catalog.videos.get(video_id)
        if numbers is None:
            raise not_found("video", video_id)
        rows = [catalog.rows[number] for number in numbers]
        return Video.model_validate({**rows[0], "segments": rows})

    @app.get("/api/videos/{video_id}/stream", response_class=FileResponse)
    @app.head("/api/videos/{video_id}/stream", include_in_schema=False)
    async def stream(video_id: str) -> Response:
        numbers = catalog.videos.get(video_id)
        if numbers is None:
            raise not_found("video", video_id)
        row = catalog.rows[numbers[0]]
        root = Path(row["root"]).resolve()
        path = (root / row["path"]).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise Problem(404, "gone", f"{row['path']}: no longer there; index again")
        return FileResponse(path)

    @app.get("/api/segments/{segment_id}/thumbnail", response_class=Response)
    async def thumbnail(segment_id: str) -> Response:
        jpeg = None if segment_id not in catalog.segments else await run_in_threadpool(library.thumbnail, segment_id)
        if jpeg is None:
            raise not_found("thumbnail of segment", segment_id)
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    page = resources.files("clipvip") / "serve" / "static"
    app.mount("/", StaticFiles(directory=str(page), html=True, check_dir=False))
    return app
