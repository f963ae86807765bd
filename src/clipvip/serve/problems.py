"""Errors as clients see them: `{"error": {"code", "message"}}`, one clear sentence, nothing of this machine in it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from clipvip.errors import InputError, UsageError

logger = logging.getLogger(__name__)


class Problem(Exception):
    """What is wrong with a request: an HTTP status, a code for programs, a sentence for people."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


class BodyProblem(HTTPException):
    """What is wrong with a request's body, found while it is read: FastAPI lets nothing else through from there."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(status, message, {"Connection": "close"})  # what is left of the body nobody reads
        self.code = code


def not_found(what: str, value: str) -> Problem:
    """404."""
    return Problem(404, "not_found", f"{what} {value[:80]!r}: not in this index")


def busy(message: str, retry_s: int = 1) -> Problem:
    """503: come again."""
    return Problem(503, "busy", message, {"Retry-After": str(retry_s)})


def answer(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The envelope that all errors come in."""
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


def handle_problems(app: FastAPI, headers: Mapping[str, str]) -> None:
    """Every error of `app` becomes an envelope.

    headers: of the answer after a failure of the server itself, which no middleware sees.
    """

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> JSONResponse:
        return answer(error.status, error.code, error.message, error.headers)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        code = getattr(error, "code", None) or HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        return answer(error.status_code, code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, "invalid", "; ".join(_told(fault) for fault in error.errors()[:3]))

    @app.exception_handler(InputError)
    @app.exception_handler(UsageError)
    async def impossible(_: Request, error: Exception) -> JSONResponse:
        return answer(422, "invalid", str(error))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return answer(500, "internal", "the server failed on this request; its log says why", dict(headers))


def _told(fault: dict[str, Any]) -> str:
    """One fault of a request: where, and what is wrong with it."""
    where = ".".join(str(part) for part in fault["loc"][1:])
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
