"""Index jobs and how they end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from clipvip.serve import indexing
from clipvip.serve.indexing import INTERRUPTED, IndexJobs, Task
from clipvip.serve.problems import Problem


def fail_when_allowed(task, report):
    """The work of a job that ends when the test says so, however slow the machine is."""
    while not (Path(task.dir) / "go on").exists():
        time.sleep(0.01)
    raise RuntimeError("this job fails")


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A job that runs until there is a file "go on" in its folder, and then fails."""
    monkeypatch.setattr(indexing, "_work", fail_when_allowed)
    return Task(str(tmp_path / "index"), "no model", "cpu", "auto", str(tmp_path))


def test_a_server_that_ends_interrupts_its_job(tmp_path, task):
    """Catches a job that the page does not offer to go on with, because the server was stopped and not killed."""
    with IndexJobs(tmp_path / "jobs.json") as jobs:
        first = jobs.start(task)
        assert jobs.cancel(first.job_id).state == "cancelled"
        second = jobs.start(task)
    assert [job.state for job in jobs.all()] == ["interrupted", "cancelled"]
    read = IndexJobs(tmp_path / "jobs.json")
    assert read.all() == jobs.all()
    assert (read.find(second.job_id).message, read.running) == (INTERRUPTED, None)
    assert jobs.cancel(second.job_id).state == "interrupted"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_job_ends_whatever_happens_after_it(tmp_path, task):
    """Catches a server that takes no job any more, because one counts as running for ever."""

    def fail() -> None:
        raise KeyError("nobody thought of this")

    with IndexJobs(tmp_path / "jobs.json", fail) as jobs:
        first = jobs.start(task)
        with pytest.raises(Problem, match="is running"):
            jobs.start(task)
        (tmp_path / "go on").touch()
        jobs._watcher.join()
        assert jobs.find(first.job_id).state == "failed"
        jobs.start(task)
    assert IndexJobs(tmp_path / "jobs.json").find(first.job_id).message is not None
