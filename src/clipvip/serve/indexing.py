"""Index jobs: what `clipvip index` does, in a process of its own, so that searches stay quick and a kill costs little.

One job runs at a time. A job that was running when the server ended, or was killed, is "interrupted": started again, it
resumes from what was committed.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, WithJsonSchema

from clipvip.errors import ClipVipError
from clipvip.files import replace_text
from clipvip.jobs import Worker, WorkerDied
from clipvip.serve.problems import Problem
from clipvip.terminal import log_to_stderr

if TYPE_CHECKING:
    from clipvip.search import IndexSummary

logger = logging.getLogger(__name__)
MAX_JOBS = 50
"""Jobs that are remembered."""
MAX_SKIPPED = 200
"""Skipped files that a job lists; the index itself has all."""
EXIT_S = 10.0
"""A process that is asked to end gets this long."""
NICENESS = 10
"""Searches come first."""

State = Literal["running", "done", "failed", "cancelled", "interrupted"]


@dataclass(frozen=True, slots=True)
class Task:
    """What a job works on. dir: a folder to index; None: files that are gone leave the index."""

    uri: str
    model: str
    device: str
    dtype: str
    dir: str | None


@dataclass(frozen=True, slots=True)
class Job:
    """A job and its progress, as the API has it. summary: what `clipvip index --json` tells, once it is done."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(json_schema_serialization_defaults_required=True)
    job_id: str
    kind: Literal["index", "prune"]
    dir: str | None
    state: State
    started: Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
    done: int = 0
    total: int | None = None
    seconds: float = 0.0
    message: str | None = None
    summary: dict[str, Any] | None = None
    skipped: list[dict[str, str]] = field(default_factory=list)


class IndexJobs:
    """Starts, watches and cancels jobs. A context manager: leaving it interrupts the one that runs.

    notes: a file with the jobs there were. on_change: called from another thread when a job has ended.
    """

    def __init__(self, notes: Path, on_change: Callable[[], None] = lambda: None):
        self._notes, self._on_change = notes, on_change
        self._jobs: dict[str, Job] = {}
        self._worker = Worker()
        self._stop_outcome: dict[str, Any] = {}  # the outcome of the running job if it is made to end
        self._watcher: threading.Thread | None = None
        self._lock = threading.Lock()
        for job in _read(notes):
            known = replace(job, state="interrupted", message=INTERRUPTED) if job.state == "running" else job
            self._jobs[job.job_id] = known

    def all(self) -> list[Job]:
        """The latest first."""
        return list(reversed(self._jobs.values()))

    def find(self, job_id: str) -> Job:
        """Raises: Problem if there is no such job."""
        job = self._jobs.get(job_id)
        if job is None:
            raise Problem(404, "not_found", f"job {job_id[:80]!r}: unknown")
        return job

    @property
    def running(self) -> Job | None:
        """The job that is running."""
        return next((job for job in self._jobs.values() if job.state == "running"), None)

    def start(self, task: Task) -> Job:
        """Raises: Problem if a job is running."""
        with self._lock:
            if (other := self.running) is not None:
                raise Problem(409, "job_running", f"job {other.job_id} is running; wait for it or cancel it")
            now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            kind: Literal["index", "prune"] = "prune" if task.dir is None else "index"
            job = Job(secrets.token_hex(8), kind, task.dir, "running", now)
            self._jobs[job.job_id] = job
            self._worker = Worker(may_spawn=True)
            self._stop_outcome = {}
            self._watcher = threading.Thread(target=self._watch, args=(job.job_id, task), daemon=True)
            self._save()
        self._watcher.start()
        return job

    def cancel(self, job_id: str) -> Job:
        """End a job; what it committed stays. Returns once it has ended; one that has ended already is left alone."""
        return self._stop(job_id, {"state": "cancelled", "message": CANCELLED})

    def __enter__(self) -> IndexJobs:
        return self

    def __exit__(self, *_: object) -> None:
        """The next start shows what was running as interrupted."""
        if (job := self.running) is not None:
            self._stop(job.job_id, {"state": "interrupted", "message": INTERRUPTED})

    def _stop(self, job_id: str, outcome: dict[str, Any]) -> Job:
        """The job, ended: with `outcome`, unless it has ended by itself meanwhile."""
        with self._lock:
            worker, watcher = self._worker, self._watcher
            if self.find(job_id).state != "running" or watcher is None:
                return self.find(job_id)
            self._stop_outcome = outcome
        worker.close(EXIT_S)
        watcher.join()
        return self.find(job_id)

    def _watch(self, job_id: str, task: Task) -> None:
        """Run the job in its process and record what that reports, until it ends."""
        started = time.monotonic()

        def record(report: dict[str, Any]) -> None:
            self._jobs[job_id] = replace(self._jobs[job_id], **report, seconds=round(time.monotonic() - started, 1))

        try:
            outcome = self._worker.call(_work, task, timeout_s=None, on_message=record)
        except WorkerDied as error:
            message = f"the process {error}; the server's log says why"
            outcome = self._stop_outcome or {"state": "failed", "message": message}
        except ClipVipError as error:
            outcome = {"state": "failed", "message": str(error)}
        except Exception as error:
            logger.exception("index job failed")
            outcome = {"state": "failed", "message": f"{type(error).__name__}: {error}"}
        self._worker.close(EXIT_S)
        try:
            self._on_change()  # before it counts as done: then what it found can be searched
        finally:
            with self._lock:
                record(outcome)
                self._save()

    def _save(self) -> None:
        for job_id in list(self._jobs)[:-MAX_JOBS]:
            del self._jobs[job_id]
        try:
            self._notes.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_text(self._notes, json.dumps([asdict(job) for job in self._jobs.values()]))
        except OSError as error:
            logger.warning("%s: cannot be written (%s); jobs will be forgotten", self._notes, error)


CANCELLED = "cancelled; what was committed stays"
INTERRUPTED = "the server ended before it did; start it again, it goes on from what was committed"


def _read(notes: Path) -> list[Job]:
    try:
        return [Job(**row) for row in json.loads(notes.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s: cannot be read (%s); earlier jobs are forgotten", notes, error)
        return []


def _work(task: Task, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Do a job in its process; how it ended."""
    from clipvip.search import Library

    log_to_stderr()
    signal.signal(signal.SIGTERM, _exit)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    library = Library(task.uri, task.model, device=task.device, dtype=task.dtype, confined=True)
    if task.dir is None:
        return {"state": "done", **_summary(library.prune())}
    last = 0.0

    def on_progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.1 or done == total:
            last = time.monotonic()
            report({"done": done, "total": total})

    return {"state": "done", **_summary(library.add(task.dir, on_progress=on_progress))}


def _summary(summary: IndexSummary) -> dict[str, Any]:
    """As `Job` has it."""
    rows = [{"path": str(skipped.video), "reason": skipped.reason} for skipped in summary.skipped]
    counts = {field.name: getattr(summary, field.name) for field in fields(summary)}
    return {"summary": counts | {"skipped": len(rows), "damaged": len(summary.damaged)}, "skipped": rows[:MAX_SKIPPED]}


def _exit(signum: int, _: object) -> None:
    sys.exit(128 + signum)
