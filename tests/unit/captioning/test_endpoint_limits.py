"""Caption servers whose answers drip, or do not end."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np
import pytest

from clipvip.captioning import endpoint
from clipvip.captioning.captioner import Undescribed
from clipvip.captioning.endpoint import Endpoint


@pytest.fixture
def server():
    """Starts a server that sends the head of an answer and then whatever a generator gives; its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def start(parts, head=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"):
        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 20)
                    try:
                        connection.sendall(head)
                        for part in parts():
                            connection.sendall(part)
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    yield start
    listener.close()


def ask(url: str, **fields) -> Undescribed:
    captioner = Endpoint(url, "m", attempts=1, requests=1, **fields).open()
    [answer] = captioner.caption([np.zeros((8, 8, 3), np.uint8)])
    return answer


def test_an_answer_that_drips_ends_in_time(server):
    """Catches a time limit for each read: a byte every tenth of a second would take hours."""

    def drip():
        while True:
            yield b" "
            time.sleep(0.1)

    began = time.monotonic()
    answer = ask(server(drip), timeout_s=1.0)
    assert isinstance(answer, Undescribed)
    assert "no answer within 1 s" in answer.reason
    assert time.monotonic() - began < 5


def test_a_head_that_drips_ends_in_time(server, monkeypatch):
    """Catches a limit that begins with the body: headers without end would take for ever."""
    monkeypatch.setattr(endpoint, "CONNECT_S", 1.0)

    def drip():
        while True:
            yield b"X"
            time.sleep(0.1)

    began = time.monotonic()
    answer = ask(server(drip, b"HTTP/1.1 200 OK\r\nX-A: "), timeout_s=1.0)
    assert "no answer within 1 s" in answer.reason
    assert time.monotonic() - began < 10


def test_an_answer_without_end_is_not_kept(server, monkeypatch):
    """Catches a server that fills the memory."""
    monkeypatch.setattr(endpoint, "MAX_ANSWER_BYTES", 1 << 16)

    def flood():
        while True:
            yield b"x" * 65536

    answer = ask(server(flood), timeout_s=20.0)
    assert isinstance(answer, Undescribed)
    assert "more than 65,536 bytes" in answer.reason
