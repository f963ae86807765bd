"""A small real HTTP server that speaks OpenAI's chat completions, or fails to, as a script says."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from helpers_shards import STEP


def answer(content: Any, **message: Any) -> dict[str, Any]:
    """A chat completion."""
    return {
        "model": "tiny-2031-01-01",
        "choices": [{"message": {"role": "assistant", "content": content, **message}, "finish_reason": "stop"}],
    }


class ChatServer(ThreadingHTTPServer):
    """Answers each request with the next of its script, {"status", "body", "headers", "hangs", "hangs_up"};
    then with the number of
    the frame of `helpers_shards.write_greys` that it was sent.

    requests: {"path", "headers", "body"} so far. meet: where requests wait for each other. holds_at: so many
    requests are answered, all others hang until `release`.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.lock, self.released = threading.Lock(), threading.Event()
        self.meet: threading.Barrier | None = None
        self.holds_at: int | None = None
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def next_answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What to say, and it is noted."""
        with self.lock:
            self.requests.append(request)
            if self.holds_at is not None and len(self.requests) > self.holds_at:
                return {"hangs": True}
            if self.script:
                return self.script.pop(0)
        return {"body": answer(f"frame {frame_number(request['body'])}")}

    def release(self) -> None:
        """Hang up on all that hang, and serve again."""
        self.holds_at = None
        self.released.set()
        self.released = threading.Event()


def frame_number(question: dict[str, Any]) -> int:
    """Of the picture in a request."""
    return round((float(picture_in(question).mean()) - 10) / STEP)


def picture_in(question: dict[str, Any]) -> np.ndarray:
    """The picture of a request, uint8 [H, W, 3]."""
    (part,) = (part for part in question["messages"][0]["content"] if part["type"] == "image_url")
    head, _, content = part["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(content))))


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """One request."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        say = self.server.next_answer({"path": self.path, "headers": dict(self.headers), "body": body})
        if self.server.meet is not None:
            self.server.meet.wait(timeout=20)
        if say.get("hangs"):
            self.server.released.wait(30)
            self.close_connection = True
            return
        content = say.get("body", "")
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(say.get("status", 200))
        for name, value in {"Content-Length": str(len(data)), **say.get("headers", {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = self.close_connection or say.get("hangs_up", False)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """A server on a free port of this machine."""
    server = ChatServer()
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
