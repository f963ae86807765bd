"""The application: routes, guard, errors and the page, around one library and one model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from clipvip import __version__
from clipvip.encode import Encoder
from clipvip.serve.config import ServeConfig
from clipvip.serve.guard import HEADERS, Guard
from clipvip.serve.index_routes import index_routes
from clipvip.serve.indexing import Task
from clipvip.serve.problems import handle_problems
from clipvip.serve.search_routes import search_routes
from clipvip.serve.services import Services
from clipvip.serve.video_routes import video_routes


def create_app(task: Task, encoder: Encoder, config: ServeConfig) -> FastAPI:
    """An ASGI application that serves an index; `app.state.services.closing` ends its event streams.

    task: the index, and how a job would add to it; encoder: the model that the index was made with.
    Raises: SearchIndexError if there is no such index, or it is of another model.
    """
    services = Services(task, encoder, config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with services.running():
            yield

    app = FastAPI(
        title="clipvip",
        version=__version__,
        description="Search a library of videos by what is seen in them.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # both pages would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.services = services
    handle_problems(app, HEADERS | {"cache-control": "no-store"})
    app.add_middleware(Guard, config=config)
    app.include_router(index_routes(services))
    app.include_router(search_routes(services))
    app.include_router(video_routes(services))
    page = resources.files("clipvip") / "serve" / "static"
    app.mount("/", StaticFiles(directory=str(page), html=True, check_dir=False))
    return app
