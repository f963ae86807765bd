"""The JSON of the API that is not a record of the search or of a job: what FastAPI checks and documents."""

from __future__ import annotations

from datetime import date, datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from clipvip.search import Failure, Filters, Query, RootStatus, Term
from clipvip.serve.indexing import Job

MAX_TEXT = 2000
MAX_TERMS = 16
MAX_K, MAX_OFFSET = 200, 10_000
EARLIEST, LATEST = 1970, 2200
EVERYWHERE = (401, 403, 421, 422, 429)


def _only_day(value: Any) -> Any:
    """Midnight somewhere would pass for a day, and lose its offset."""
    if isinstance(value, datetime) or (isinstance(value, str) and len(value) > len("2024-06-01")):
        raise ValueError("a day is written 2024-06-01")
    return value


Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Id = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, pattern=r"\S", description="In words.")]
Moment = Annotated[date, BeforeValidator(_only_day)] | AwareDatetime
Folder = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]


class Strict(BaseModel):
    """What clients send: a name that is not known is an error."""

    model_config = ConfigDict(extra="forbid")


class TermBody(Strict):
    """One thing to look for: exactly one of text, segment_id and upload_id."""

    text: Text | None = None
    segment_id: Id | None = None
    upload_id: Id | None = None
    weight: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(value is not None for value in (self.text, self.segment_id, self.upload_id)) != 1:
            raise ValueError("give exactly one of text, segment_id and upload_id")
        if self.weight == 0:
            raise ValueError("a weight of 0 says nothing; leave the term out")
        return self


Terms = Annotated[list[TermBody], Field(min_length=1, max_length=MAX_TERMS)]


class FiltersBody(Strict):
    """Which videos may answer. path: a pattern such as holiday/** below a root; after, before: of the file's date."""

    path: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    root: Folder | None = None
    after: Moment | None = None
    before: Moment | None = None
    min_duration_s: Seconds | None = None
    max_duration_s: Seconds | None = None

    def to_filters(self) -> Filters:
        """As a search takes them."""
        return Filters(**{name: getattr(self, name) for name in FiltersBody.model_fields})

    @model_validator(mode="after")
    def _has_files_of_that_time(self) -> Self:
        for moment in (self.after, self.before):
            if moment is not None and not EARLIEST <= moment.year <= LATEST:
                raise ValueError(f"dates lie between {EARLIEST} and {LATEST}")
        return self


class Options(Strict):
    """How a search answers."""

    k: Annotated[int, Field(ge=1, le=MAX_K, description="How many answers.")] = 20
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET, description="Better answers to pass over.")] = 0
    per_video: Annotated[bool, Field(description="The best answer of each video only.")] = False
    merge: Annotated[bool, Field(description="Near-by windows that answer equally well are one answer.")] = True
    false_alarm: Annotated[
        float | None,
        Field(gt=0, lt=1, description="The rate at which a query for what is not there may be answered."),
    ] = None
    rescore: Annotated[
        Literal["qbnorm"] | None, Field(description="qbnorm: against videos that are near to every query.")
    ] = None

    def to_query(self, terms: tuple[Term, ...], filters: FiltersBody) -> Query:
        """The search. Raises: UsageError for what makes no sense together."""
        options = {name: getattr(self, name) for name in Options.model_fields}
        return Query(terms=terms, filters=filters.to_filters(), **options)


class SearchBody(Options):
    """A search by any number of terms."""

    terms: Terms
    filters: FiltersBody = FiltersBody()


class TermParams(Strict):
    """What to look for, in an address: q, similar_to, or both."""

    q: Text | None = None
    similar_to: Annotated[Id | None, Field(description="A segment_id: what looks like it.")] = None

    @model_validator(mode="after")
    def _is_asked(self) -> Self:
        if self.q is None and self.similar_to is None:
            raise ValueError("give q (words), similar_to (a segment_id), or both")
        return self

    def terms(self) -> list[TermBody]:
        """As a body has them."""
        terms = [TermBody(text=self.q)] if self.q is not None else []
        return terms + ([TermBody(segment_id=self.similar_to)] if self.similar_to is not None else [])


class SearchParams(TermParams, FiltersBody, Options):
    """A search in an address."""


class TermsBody(Strict):
    """What to look for: any number of terms."""

    terms: Terms


class JobBody(Strict):
    """What to do: index a folder, or take files out of the index that are gone."""

    dir: Folder | None = None
    prune: bool = False

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.dir is not None) == self.prune:
            raise ValueError('give either "dir" or "prune": true')
        return self


class ErrorDetail(BaseModel):
    """A code for programs, a sentence for people."""

    code: str
    message: str


class ErrorBody(BaseModel):
    """What every error looks like."""

    error: ErrorDetail


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"
    version: str


class StatusOut(BaseModel):
    """What is in the index, and what is going on."""

    videos: int
    segments: int
    hours: float
    bytes: int
    model: str
    fingerprint: str
    roots: list[str]
    failures: list[Failure]
    jobs: list[Job]
    allow_new_roots: bool
    examples: list[str] | None


class LibrariesOut(BaseModel):
    """The folders of the index."""

    libraries: list[RootStatus]


class HitOut(BaseModel):
    """One answer: a part of a video. rank counts from 1; score is the cosine similarity (or what re-scoring made)."""

    rank: int
    score: float
    video_id: str
    segment_id: str
    root: str
    path: str
    start_s: float
    end_s: float
    duration_s: float
    width: int
    height: int


class SearchOut(BaseModel):
    """Answers, best first. total: segments in the index. found: False if there are none that pass `false_alarm`."""

    query: str
    found: bool
    p_value: float | None
    total: int
    took_ms: float
    results: list[HitOut]
    next_offset: int | None


class SegmentOut(BaseModel):
    """A part of a video."""

    segment_id: str
    start_s: float
    end_s: float


class VideoOut(BaseModel):
    """A video and its segments. there: whether the file is where it was."""

    video_id: str
    root: str
    path: str
    size_bytes: int
    modified: datetime
    duration_s: float
    width: int
    height: int
    there: bool
    segments: list[SegmentOut]


class ScoredSegment(SegmentOut):
    """A part of a video and how well it answers."""

    score: float


class TimelineOut(BaseModel):
    """All segments of one video, in the order of time."""

    query: str
    video_id: str
    segments: list[ScoredSegment]


class UploadOut(BaseModel):
    """What was uploaded, and how long it can be searched by."""

    upload_id: str
    kind: Literal["image", "video"]
    expires_in_s: float


class JobsOut(BaseModel):
    """The latest first."""

    jobs: list[Job]


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For FastAPI's `responses`: these, and those of every route."""
    return {status: {"model": ErrorBody} for status in (*statuses, *EVERYWHERE)}


def errors_beside(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same for a route whose good answers are no JSON: FastAPI would give its errors their media type."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content} for status in (*statuses, *EVERYWHERE)
    }
