"""`clipvip serve` as a process: its address, its end, its mistakes, and what a kill leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import clipvip
from clipvip.search import Library
from helpers_cli import run_here
from helpers_model import write_model
from helpers_serve import first, started, write_library
from helpers_video import write_video

TOKEN = "a-token-that-is-long"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_library(tmp_path_factory.mktemp("library of a process"))


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--host", "0.0.0.0"], 2, "needs a token"),
        (["--name", "films.example"], 2, "needs a token"),
        (["--token", "short"], 2, "can be guessed"),
        (["--host", "no such host", "--token", TOKEN], 2, "no address of this machine"),
        (["--host", "192.0.2.1", "--token", TOKEN], 2, "no address of this machine"),
        (["--index", "nowhere"], 1, "no search index there"),
    ],
)
def test_mistakes_are_told_in_one_line(place, monkeypatch, capsys, options, code, told):
    """Catches a server that is open by mistake, tracebacks, and wrong exit codes."""
    index = [] if "--index" in options else ["--index", str(place / "index")]
    monkeypatch.setenv("CLIPVIP_TOKEN", "")
    assert run_here("serve", *index, *options) == code
    [line] = capsys.readouterr().err.splitlines()
    assert told in line


def test_port_in_use(place, capsys):
    """Catches a traceback, or a wait for the model, where one line would do."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert run_here("serve", "--index", str(place / "index"), "--port", port) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert f"port {port} of 127.0.0.1 is in use" in line


def children(pid: int) -> set[int]:
    """All processes below one."""
    found: set[int] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(") ", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            found |= {int(folder.name), *children(int(folder.name))}
    return found


def signal_all(number: signal.Signals, pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_until(is_so, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_signals_end_it(place):
    """Catches a server that does not end while somebody follows a job, leaves processes, or has a wrong exit code."""
    with started(place, "--token", TOKEN) as (process, client):
        assert client.get("/api/status").status_code == 401
        client.headers["authorization"] = f"Bearer {TOKEN}"
        segment_id = first(client)["segment_id"]
        assert client.get(f"/api/segments/{segment_id}/strip").status_code == 200  # starts a process
        job = client.post("/api/jobs", json={"dir": str(place / "videos")}).json()
        with client.stream("GET", f"/api/jobs/{job['job_id']}/events") as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            below = children(process.pid)
            assert below
            process.send_signal(signal.SIGTERM)
            assert not any('"failed"' in line for line in lines)
        assert process.wait(60) == 143
        assert process.stderr is not None
        [line] = process.stderr.read().splitlines()
        assert "interrupted" in line
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))


def test_the_example_of_the_docs(place):
    """Catches an example that no longer runs, or that fails when somebody else's index job is running."""
    docs = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(import time\n\nimport httpx2\n.*?)```", docs, re.DOTALL)
    with started(place) as (_, client):
        others = client.post("/api/jobs", json={"dir": str(place / "videos")}).json()["job_id"]
        code = example.replace("http://127.0.0.1:8000", str(client.base_url))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        *_, data = (line for line in done.stdout.splitlines() if line.startswith("data: "))  # the others are pings
        last = json.loads(data.removeprefix("data: "))
        assert (last["state"], last["dir"]) == ("done", str(place / "videos"))
        latest = client.get("/api/jobs").json()["jobs"][:2]  # the server before may have left some
        assert [job["job_id"] for job in latest] == [last["job_id"], others]


@pytest.mark.parametrize(
    ("num_videos", "kill_at", "committed"),
    [
        (60, 3, 1),
        pytest.param(200, 70, 65, marks=pytest.mark.long),
        pytest.param(200, 135, 129, marks=pytest.mark.long),
        pytest.param(200, 165, 129, marks=pytest.mark.long),
    ],
)
def test_a_kill_in_mid_index_loses_nothing(tmp_path, num_videos, kill_at, committed):
    """Catches an index that a killed server leaves broken, orphans that go on writing, and a lost job."""
    videos = tmp_path / "videos"
    videos.mkdir()
    write_model(tmp_path / "model")
    write_video(videos / "0.mp4", 10)
    encoder = clipvip.load(tmp_path / "model", device="cpu")
    Library(tmp_path / "index", encoder).add(videos)
    for i in range(1, num_videos):
        write_video(videos / f"{i}.mp4", 130 + i, grain=8)  # all different; two windows each or more
    with started(tmp_path) as (process, client):
        others = children(process.pid)
        job = client.post("/api/jobs", json={"dir": str(videos)}).json()

        def stop_the_job() -> set[int]:
            """Its processes, which stand still from now on."""
            found = children(process.pid) - others
            signal_all(signal.SIGSTOP, found)
            return found

        def far_enough() -> bool:
            """Whether to kill now. The job stands still while it is asked, or it might end before the kill."""
            found = stop_the_job()
            now = client.get(f"/api/jobs/{job['job_id']}").json()
            assert now["state"] == "running", now
            if now["done"] >= kill_at:
                return True
            signal_all(signal.SIGCONT, found)
            return False

        # It answers in the middle of a job. This may take long, so that the job must not go on meanwhile.
        stopped = stop_the_job()
        assert stopped
        assert client.get("/api/search?q=a").json()["results"]
        signal_all(signal.SIGCONT, stopped)
        wait_until(far_enough)
        below = children(process.pid)
        process.kill()
        process.wait()
        signal_all(signal.SIGCONT, below)  # they must end by themselves
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))
    indexed = Library(tmp_path / "index", encoder)
    before = len(indexed.store.videos())
    assert committed <= before <= num_videos  # a job that is resumed reaches the last file before it has committed it
    assert {hit.video.name for hit in indexed.search("a", k=200)} <= {path.name for path in videos.iterdir()}

    with started(tmp_path) as (_, client):
        [left] = client.get("/api/jobs").json()["jobs"]
        assert (left["job_id"], left["state"]) == (job["job_id"], "interrupted")
        assert "goes on" in left["message"]
        again = client.post("/api/jobs", json={"dir": left["dir"]}).json()
        with client.stream("GET", f"/api/jobs/{again['job_id']}/events") as stream:
            told = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line[:5] == "data:"]
        assert told[-1]["state"] == "done", told[-1]
        assert told[-1]["summary"]["unchanged"] == before
        assert client.get("/api/status").json()["videos"] == num_videos


@pytest.mark.long
def test_a_cancelled_job_keeps_what_it_has(place):
    """Catches a cancel that leaves the process, and one that says it was a failure."""
    with started(place) as (_, client):
        for i in range(40):
            write_video(place / "videos" / f"more {i}.mp4", 13 + i)
        job = client.post("/api/jobs", json={"dir": str(place / "videos")}).json()
        ended = client.delete(f"/api/jobs/{job['job_id']}").json()
        assert ended["state"] in ("cancelled", "done"), ended
        assert client.get(f"/api/jobs/{job['job_id']}").json() == ended
        assert client.delete(f"/api/jobs/{job['job_id']}").json() == ended
        assert client.post("/api/jobs", json={"dir": str(place / "videos")}).status_code == 201
