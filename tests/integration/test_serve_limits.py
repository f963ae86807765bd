"""Clients that open connections and say nothing, drip, or take nothing: the server goes on serving the others."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress

import httpx2
import pytest

from clipvip.serve import media
from clipvip.serve.run import Connections, OncePerMinute, connection_limit
from helpers_serve import first, served, started, write_library
from helpers_video import write_video


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_library(tmp_path_factory.mktemp("limited library"))


def test_half_open_connections_do_not_stop_a_server_with_few_descriptors(place):
    """Catches a server of 200 file descriptors that 260 silent connections stop, before any token is asked for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))  # the server inherits it
    try:
        with started(place) as (process, client), ExitStack() as stack:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            address = (client.base_url.host, client.base_url.port)
            silent = []
            for number in range(260):
                connection = stack.enter_context(socket.create_connection(address, timeout=30))
                if number % 2:
                    connection.sendall(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n")  # and no more
                silent.append(connection)
            deadline = time.monotonic() + 40
            while time.monotonic() < deadline:
                try:
                    if httpx2.get(f"{client.base_url}api/health", timeout=5).status_code == 200:
                        break
                except httpx2.TransportError:
                    time.sleep(0.5)
            else:
                pytest.fail("no answer within 40 s")
            assert process.poll() is None
            assert httpx2.get(f"{client.base_url}api/search?q=a", timeout=30).status_code == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_slow_readers_do_not_stop_a_server_with_few_descriptors(tmp_path):
    """Catches one address whose downloads, three descriptors each, leave none to accept and to read with."""
    place = write_library(tmp_path / "library")
    with (place / "videos" / "short.mp4").open("ab") as file:
        file.truncate(64 << 20)  # players pass over what comes after the end of an MP4
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        with started(place) as (process, client), ExitStack() as stack:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            address = (client.base_url.host, client.base_url.port)
            video_id = first(client, path="short.mp4")["video_id"]
            for _ in range(80):
                connection = stack.enter_context(socket.socket())
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.settimeout(30)
                connection.connect(address)
                with suppress(OSError):
                    request = f"GET /api/videos/{video_id}/stream?transcode=never HTTP/1.1\r\nHost: localhost\r\n\r\n"
                    connection.sendall(request.encode())
            time.sleep(2)
            transport = httpx2.HTTPTransport(local_address="127.0.0.2")
            with httpx2.Client(transport=transport, base_url=client.base_url, timeout=20) as other:
                assert other.get("/api/health").status_code == 200
                assert other.get("/api/search?q=a").status_code == 200
                part = other.get(f"/api/videos/{video_id}/stream?transcode=never", headers={"range": "bytes=0-9"})
                assert part.status_code == 206
            assert process.poll() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        (errno.EMFILE, 503, "busy"),
        (errno.ENOENT, 404, "gone"),
        (errno.ELOOP, 404, "gone"),
        (errno.EIO, 422, "undecodable"),
    ],
)
def test_what_the_server_lacks_is_no_fault_of_a_file(number, status, code):
    """Catches "gone: index it again" for a file that is there, when the server has too much open."""
    problem = media.problem_of(OSError(number, os.strerror(number)), "a.mp4")
    assert (problem.status, problem.code) == (status, code)


def _seconds_until_cut_off(connection: socket.socket) -> float:
    """How long a client can send the head of a request, a byte at a time."""
    began = time.monotonic()
    with suppress(BrokenPipeError, ConnectionResetError):
        for byte in b"GET /api/health HTTP/1.1\r\nA: " + b"b" * 100:
            connection.sendall(bytes([byte]))
            time.sleep(0.4)
    return time.monotonic() - began


def _read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    received = b""
    while part := connection.recv(4096):
        received += part
    return received


def test_a_head_that_drips_is_cut_off(place):
    """Catches a client that sends a byte every few seconds for ever, with a fresh connection or a used one."""
    with started(place) as (_, client):
        address = (client.base_url.host, client.base_url.port)
        for opening in (b"", b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            with socket.create_connection(address, timeout=30) as connection:
                connection.sendall(opening)
                if opening:
                    assert b"200 OK" in connection.recv(4096)
                assert _seconds_until_cut_off(connection) < 20


def test_connections_are_counted_by_address():
    """Catches one address that takes all connections, and a proxy that may not."""
    connections = Connections(100, exempt=frozenset({"10.0.0.9"}))
    assert sum(connections.admit("10.0.0.1") for _ in range(100)) == 50
    assert sum(connections.admit("10.0.0.2") for _ in range(30)) == 30
    assert sum(connections.admit("10.0.0.9") for _ in range(100)) == 20
    assert not connections.admit("10.0.0.3")
    for _ in range(50):
        connections.release("10.0.0.1")
    assert connections.admit("10.0.0.3")
    assert 16 <= connection_limit() <= 1000


def test_silent_uploads_on_real_connections(place, tmp_path):
    """Catches places for uploads that are held for ever; and one client that holds those of all."""
    script = tmp_path / "short_bodies.py"
    script.write_text(
        "import sys\nfrom clipvip.serve import guard\nguard.BODY_S = 3.0\n"
        "from clipvip.cli import main\nsys.argv[0] = 'clipvip'\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    arguments = ["serve", "--index", str(place / "index"), "--cache", str(place / "cache"), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments, "--device", "cpu"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        url = next(word for word in process.stdout.readline().split() if word.startswith("http"))
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        with ExitStack() as stack:
            waiting = []
            for _ in range(10):
                connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
                connection.sendall(
                    b"POST /api/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n"
                    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
                )
                waiting.append(connection)
            answers = [_read_all(connection) for connection in waiting]
            assert sum(b" 503 " in answer for answer in answers) == 2  # eight places for one client
            assert sum(b" 408 " in answer for answer in answers) == 8
            assert all(b'"code":"too_slow"' in answer for answer in answers if b" 408 " in answer)
        files = {"file": ("x.mp4", (place / "videos" / "short.mp4").read_bytes())}
        assert httpx2.post(f"{url}api/uploads", files=files, timeout=60).status_code == 200
    finally:
        process.kill()
        process.communicate()


def test_a_body_that_is_too_large_is_refused_in_the_usual_form(place):
    """Catches a 413 of plain text that no program can read and that lacks the headers of all other answers."""
    with served(place, upload_bytes=1 << 20) as client:

        def endless():
            yield b"--x\r\n"
            for _ in range(100):
                yield b"\0" * (1 << 16)

        headers = {"content-type": "multipart/form-data; boundary=x"}
        answers = [
            client.post("/api/uploads", files={"file": ("x.png", b"\0" * (3 << 20))}),
            client.post("/api/uploads", content=endless(), headers=headers),
            client.post("/api/search", content=b"[" + b" " * (2 << 20), headers={"content-type": "application/json"}),
            client.post("/api/jobs", content=endless(), headers={"content-type": "application/json"}),
        ]
        harmless = client.get("/api/status").headers
        for answer in answers:
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "too_large"
            for name in ("content-security-policy", "x-content-type-options", "cache-control"):
                assert answer.headers[name] == harmless[name]


def test_short_videos_do_not_wait_for_long_ones(place, monkeypatch):
    """Catches a film of hours whose copy holds up every short clip."""
    monkeypatch.setattr(media, "LONG_S", 10.0)
    write_video(place / "videos" / "epic.mkv", 120, grain=8)
    from clipvip.search import Library

    Library(place / "index", str(place / "model"), device="cpu").add(place / "videos")
    with served(place) as client:
        epic, tape = (first(client, path=name)["video_id"] for name in ("epic.mkv", "tape.mkv"))
        pools = client.app.state.services.media
        busy, go = threading.Event(), threading.Event()
        call = pools._long.pool.call

        def slowly(*arguments, **options):
            busy.set()
            assert go.wait(60)
            return call(*arguments, **options)

        monkeypatch.setattr(pools._long.pool, "call", slowly)
        answers = {}
        long = threading.Thread(
            target=lambda: answers.update(long=client.get(f"/api/videos/{epic}/stream").status_code)
        )
        long.start()
        assert busy.wait(60)
        assert client.get(f"/api/videos/{tape}/stream").status_code == 200
        assert not answers
        go.set()
        long.join()
        assert answers == {"long": 200}


@pytest.mark.parametrize("times", [1, 2])
def test_a_decoder_that_is_killed_is_no_fault_of_the_upload(place, monkeypatch, times):
    """Catches "undecodable" for a good file whose decoder the kernel killed: once more, or come again."""
    with served(place) as client:
        worker = client.app.state.services.uploads._worker
        conversation, left = type(worker)._converse, [times]

        def killed(self, question, timeout_s):
            talk = conversation(self, question, timeout_s)
            if self is worker and left[0]:
                left[0] -= 1
                if self._process is None:
                    self._start()
                os.kill(self._process.pid, signal.SIGSTOP)
                threading.Timer(0.3, os.kill, (self._process.pid, signal.SIGKILL)).start()
            return talk

        monkeypatch.setattr(type(worker), "_converse", killed)
        files = {"file": ("x.mp4", (place / "videos" / "short.mp4").read_bytes())}
        answer = client.post("/api/uploads", files=files)
        if times == 1:
            assert answer.status_code == 200, answer.text
        else:
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
            assert int(answer.headers["retry-after"]) > 0
        assert client.post("/api/uploads", files=files).status_code == 200


def test_a_decoder_that_is_killed_while_it_starts_is_tried_again(place, monkeypatch):
    """Catches a 500, and advice about scripts, where the kernel kills a process that is importing torch."""
    with served(place) as client:
        worker = client.app.state.services.uploads._worker
        receive, left = type(worker)._receive, [1]

        def killed(self, timeout_s):
            if self is worker and left[0]:
                left[0] -= 1
                os.kill(self._process.pid, signal.SIGKILL)
            return receive(self, timeout_s)

        monkeypatch.setattr(type(worker), "_receive", killed)
        files = {"file": ("x.mp4", (place / "videos" / "short.mp4").read_bytes())}
        answer = client.post("/api/uploads", files=files)
        assert (answer.status_code, left) == (200, [0]), answer.text


def test_one_line_for_each_kind_of_event():
    """Catches a disk filled by a client that causes the same warning a thousand times."""
    now = [0.0]
    limit, lines = OncePerMinute(lambda: now[0]), []

    def log(message: str, *values: object) -> None:
        record = logging.LogRecord("x", logging.WARNING, "x.py", 1, message, values, None)
        if limit.filter(record):
            lines.append(record.getMessage())

    for number in range(1000):
        log("no room for %s", number)
        log("gone: %s", number)
    assert lines == ["no room for 0", "gone: 0"]
    now[0] = 61.0
    log("no room for %s", 5)
    assert lines[-1] == "no room for 5 (999 more like this since the last line)"
    for number in range(5000):
        log(f"a message that is never the same {number}")
    assert len(limit._seen) < 2000
