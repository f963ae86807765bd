"""The supervised process: whatever happens in it, the caller gets one clear error and can go on."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

import helpers_jobs as jobs
from clipvip.errors import VideoDecodeError
from clipvip.jobs import NotStarted, Worker, WorkerDied


@pytest.mark.parametrize(
    ("item", "told"),
    [(jobs.CRASH, "SIGSEGV"), (jobs.HANG, "silent for 2 s"), (jobs.HOG, "bytes of memory")],
)
def test_planted_disasters_cost_one_call(item: str, told: str) -> None:
    """Catches a supervisor that dies, hangs or stays broken with its child."""
    with Worker(memory_bytes=2 << 30) as worker:
        assert worker.call(jobs.do, "before", timeout_s=60) == "BEFORE"
        with pytest.raises(WorkerDied, match=told):
            worker.call(jobs.do, item, timeout_s=2)
        assert worker.call(jobs.do, "after", timeout_s=60) == "AFTER"


def test_errors_come_back_as_they_are() -> None:
    """Catches an error that loses its type or text on the way, and a process needlessly replaced after one."""
    with Worker() as worker:
        first = worker.call(jobs.process_id, timeout_s=60)
        with pytest.raises(VideoDecodeError, match=r"bad\.mp4: damaged"):
            worker.call(jobs.do, jobs.BAD, timeout_s=60)
        with pytest.raises(ZeroDivisionError) as caught:
            worker.call(jobs.do, jobs.BUG, timeout_s=60)
        assert "in do" in caught.value.__notes__[0]
        with pytest.raises(RuntimeError, match="cannot leave the worker process"):
            worker.call(jobs.unpicklable, timeout_s=60)
        assert worker.call(jobs.process_id, timeout_s=60) == first != os.getpid()


def test_signs_of_life_hold_off_the_timeout() -> None:
    """Catches a long call that is killed although it goes on, and beats that are lost."""
    beats: list[int] = []
    with Worker() as worker:
        assert worker.call(jobs.beat_for, 3.0, timeout_s=2.0, on_beat=beats.append) == 3.0
    assert len(beats) > 10
    assert set(beats) == {1}


def test_results_come_one_by_one() -> None:
    """Catches results that are held back until the last one is there, lost, or mixed up with those of the next call."""
    with Worker() as worker:
        pid = worker.call(jobs.process_id, timeout_s=60)
        numbers = worker.stream(jobs.count_to, 5, timeout_s=60)
        assert [next(numbers) for _ in range(5)] == [1, 2, 3, 4, 5]
        with pytest.raises(VideoDecodeError, match="5 is as far"):
            next(numbers)
        assert worker.call(jobs.process_id, timeout_s=60) == pid
        forgotten = worker.stream(jobs.count_to, 10**9, timeout_s=60)
        assert next(forgotten) == 1
        forgotten.close()
        assert worker.call(jobs.do, "after", timeout_s=60) == "AFTER"


def test_a_closed_worker_starts_no_process() -> None:
    """Catches processes that outlive the job, because a thread retries on a worker that was closed under it."""
    with Worker() as worker:
        pid = worker.call(jobs.process_id, timeout_s=60)
    with pytest.raises(WorkerDied, match="closed"):
        worker.call(jobs.do, "late", timeout_s=60)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_killed_while_idle_is_replaced() -> None:
    """Catches a worker that stays broken after the kernel took its process, and an error for work never begun."""
    with Worker() as worker:
        pid = worker.call(jobs.process_id, timeout_s=60)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # multiprocessing itself must see it end
        assert worker.call(jobs.process_id, timeout_s=60) != pid


def test_a_process_that_cannot_be_started_is_no_fault_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches every file blamed where no process can be started: no memory, or a script without a guard."""
    for error in (RuntimeError("in its bootstrapping phase"), OSError(12, "Cannot allocate memory")):

        def fail(_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", fail)
        with Worker() as worker, pytest.raises(NotStarted, match="cannot be started"):
            worker.call(jobs.do, "work", timeout_s=60)


def test_messages_come_on_the_way() -> None:
    """Catches a progress that is held back until the call ends, and a result that is taken for a message."""
    got: list[object] = []
    with Worker() as worker:
        messages = [{"done": 1}, {"done": 2}]
        assert worker.call(jobs.send_each, messages, timeout_s=60, on_message=got.append) == 2
        assert got == messages


def test_an_error_that_cannot_be_pickled_keeps_its_text() -> None:
    """Catches the caller's own TypeError about a constructor in place of the error that matters."""
    with Worker() as worker, pytest.raises(RuntimeError, match=r"FussyError: a fussy one \(7\)"):
        worker.call(jobs.raise_fussy, timeout_s=60)


def test_a_worker_that_may_spawn_and_is_asked_to_end_first(tmp_path: Path) -> None:
    """Catches daemons, which cannot have processes of their own, and a kill that leaves no time to clean up."""
    worker = Worker(may_spawn=True)
    assert worker.call(jobs.decode_in_a_child, "word", timeout_s=60) == "WORD"
    died: list[str] = []

    def call() -> None:
        try:
            worker.call(jobs.wait_for_sigterm, tmp_path / "ready", timeout_s=None)
        except WorkerDied as error:
            died.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    worker.close(grace_s=30.0)
    thread.join(timeout=30)
    assert (tmp_path / "asked").exists()
    assert len(died) == 1
