"""The JSON of the API, as pydantic models: what FastAPI checks and documents."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"
    version: str


class Status(BaseModel):
    """What is in the index, and what is going on."""

    videos: int
    segments: int
    hours: float
    model: str
    fingerprint: str
    roots: list[str]


class Found(BaseModel):
    """One answer: a segment of a video. rank counts from 1; score is the cosine similarity."""

    rank: int
    score: float
    video_id: str
    segment_id: str
    root: str
    path: str
    start_s: float
    end_s: float
    duration_s: float
    width: int | None
    height: int | None


class SearchAnswer(BaseModel):
    """The answers to a query, best first."""

    query: str
    found: bool
    p_value: float | None
    total: int
    took_ms: float
    results: list[Found]
    next_offset: int | None


class Segment(BaseModel):
    """A part of a video."""

    segment_id: str
    start_s: float
    end_s: float


class Video(BaseModel):
    """A video and its segments."""

    video_id: str
    root: str
    path: str
    duration_s: float
    segments: list[Segment]
