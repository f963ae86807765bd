"""Index jobs: what `clipvip index` does, in a process of its own, so that searches stay quick and a kill costs little.

One job runs at a time. A job that was under way when the server ended, or was killed, is "interrupted": asked for
again, it goes on from what was committed.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clipvip.errors import ClipVipError, Interrupted
from clipvip.files import replace_text
from clipvip.jobs.worker import end_with_parent
from clipvip.serve.problems import Problem
from clipvip.terminal import log_to_stderr

if TYPE_CHECKING:
    from clipvip.search import IndexSummary

logger = logging.getLogger(__name__)
KEPT = 50
"""Jobs that are remembered."""
SKIPPED = 200
"""Files without success that a job lists; the index itself knows all."""
GOING_S = 10.0
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
    """A job and how far it is. summary: what `clipvip index --json` tells, once it is done."""

    job_id: str
    kind: Literal["index", "prune"]
    dir: str | None
    state: State
    started: str
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
        self._process: Any = None
        self._stopped: dict[str, Any] = {}  # what became of the job, if it was made to end
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
        """The one that is under way."""
        return next((job for job in self._jobs.values() if job.state == "running"), None)

    def start(self, task: Task) -> Job:
        """Raises: Problem if a job is running."""
        with self._lock:
            if (other := self.running) is not None:
                raise Problem(409, "job_running", f"job {other.job_id} is running; wait for it or cancel it")
            now = datetime.now(UTC).isoformat(timespec="seconds")
            kind: Literal["index", "prune"] = "prune" if task.dir is None else "index"
            job = Job(secrets.token_hex(8), kind, task.dir, "running", now)
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe(duplex=False)
            self._process = context.Process(target=_work, args=(theirs, task), name="index", daemon=False)
            self._process.start()
            theirs.close()
            self._jobs[job.job_id] = job
            self._stopped = {}
            self._watcher = threading.Thread(target=self._watch, args=(job.job_id, ours, self._process), daemon=True)
            self._save()
        self._watcher.start()
        return job

    def cancel(self, job_id: str) -> Job:
        """End a job; what it committed stays. Returns once it has ended; one that has ended already stays as it is."""
        return self._stop(job_id, {"state": "cancelled", "message": CANCELLED})

    def __enter__(self) -> IndexJobs:
        return self

    def __exit__(self, *_: object) -> None:
        """The next start shows what was under way as interrupted."""
        if (job := self.running) is not None:
            self._stop(job.job_id, {"state": "interrupted", "message": INTERRUPTED})

    def _stop(self, job_id: str, outcome: dict[str, Any]) -> Job:
        """The job, ended: as `outcome` tells, or else as it ended by itself meanwhile."""
        with self._lock:
            process, watcher = self._process, self._watcher
            if self.find(job_id).state != "running" or watcher is None:
                return self.find(job_id)
            self._stopped = outcome
        process.terminate()
        process.join(GOING_S)
        process.kill()
        watcher.join()
        return self.find(job_id)

    def _watch(self, job_id: str, pipe: Connection, process: Any) -> None:
        """Take in what the process tells, until it ends."""
        started = time.monotonic()
        ended: dict[str, Any] = {}
        with suppress(EOFError, OSError), pipe:
            while True:
                told = pipe.recv()
                if "state" in told:
                    ended = told
                else:
                    self._jobs[job_id] = replace(
                        self._jobs[job_id], **told, seconds=round(time.monotonic() - started, 1)
                    )
        process.join()
        message = f"the process ended with {process.exitcode}; its log says why"
        ended = ended or self._stopped or {"state": "failed", "message": message}
        try:
            self._on_change()  # before it counts as done: then what it found can be searched
        finally:
            with self._lock:
                self._jobs[job_id] = replace(self._jobs[job_id], **ended, seconds=round(time.monotonic() - started, 1))
                self._save()

    def _save(self) -> None:
        for job_id in list(self._jobs)[:-KEPT]:
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


def _work(pipe: Connection, task: Task) -> None:
    """The process of a job."""
    end_with_parent()
    log_to_stderr()
    signal.signal(signal.SIGTERM, _interrupt)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    try:
        pipe.send({"state": "done", **_do(pipe, task)})
    except Interrupted:
        sys.exit(128 + signal.SIGTERM)  # whoever sent it knows why
    except ClipVipError as error:
        pipe.send({"state": "failed", "message": str(error)})
    except Exception as error:
        logger.exception("index job failed")
        pipe.send({"state": "failed", "message": f"{type(error).__name__}: {error}"})


def _do(pipe: Connection, task: Task) -> dict[str, Any]:
    from clipvip.search import Library

    library = Library(task.uri, task.model, device=task.device, dtype=task.dtype, confined=True)
    if task.dir is None:
        return _summary(library.prune())
    last = 0.0

    def told(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.1 or done == total:
            last = time.monotonic()
            pipe.send({"done": done, "total": total})

    return _summary(library.add(task.dir, on_progress=told))


def _summary(summary: IndexSummary) -> dict[str, Any]:
    """As `Job` has it."""
    rows = [{"path": str(skipped.video), "reason": skipped.reason} for skipped in summary.skipped]
    counts = {field.name: getattr(summary, field.name) for field in fields(summary)}
    return {"summary": counts | {"skipped": len(rows), "damaged": len(summary.damaged)}, "skipped": rows[:SKIPPED]}


def _interrupt(signum: int, _: object) -> None:
    raise Interrupted(signum)
