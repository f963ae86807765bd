"""Captions from a server: a real one on this machine, which fails in every way that servers do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest

from clipvip.captioning import Described, Endpoint, Undescribed
from clipvip.captioning import endpoint as module
from clipvip.captioning.captioner import Answer
from clipvip.errors import ClipVipError, UsageError
from helpers_chat_server import ChatServer, answer, chat_server, picture_in
from helpers_shards import STEP

KEY = "sk-secret-123"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    """A server of this test's own; no key is set."""
    for variable in module.KEY_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with chat_server() as running:
        yield running


def grey(number: int, height: int = 24, width: int = 32) -> np.ndarray:
    """The picture that the server reads as `number`."""
    return np.full((height, width, 3), 10 + STEP * number, np.uint8)


def ask(server: ChatServer | str, *images: np.ndarray, **options: Any) -> list[Answer]:
    url = server if isinstance(server, str) else server.url
    settings = {"attempts": 3, "backoff_s": 0.001, "timeout_s": 5.0, **options}
    return list(Endpoint(url, "tiny", **settings).open().caption(images or (grey(1),)))


def test_the_question(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a request that no server understands, another picture than was given, and sampling."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-others")
    monkeypatch.setenv("CLIPVIP_API_KEY", f" {KEY}\n")
    assert ask(server, grey(7), max_words=8) == [Described("frame 7", "tiny-2031-01-01")]
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == f"Bearer {KEY}"
    body = request["body"]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0, 32)
    (message,) = body["messages"]
    assert message["role"] == "user"
    assert "at most 8 words" in message["content"][1]["text"]
    assert picture_in(body).shape == (24, 32, 3)


def test_own_prompt_and_revision(server: ChatServer) -> None:
    """Catches options that are accepted and ignored; a header with no key in it."""
    assert ask(server, prompt="What is this?", revision="r7") == [Described("frame 1", "r7")]
    assert server.requests[0]["body"]["messages"][0]["content"][1]["text"] == "What is this?"
    assert "Authorization" not in server.requests[0]["headers"]


def test_large_pictures_are_scaled(server: ChatServer) -> None:
    """Catches megabytes a request, and a picture out of shape."""
    ask(server, grey(3, 1200, 2000))
    assert picture_in(server.requests[0]["body"]).shape == (461, 768, 3)


def test_order_and_concurrency(server: ChatServer) -> None:
    """Catches answers given to other images, requests one after the other, and more at once than was said."""
    server.meet = threading.Barrier(4)  # nobody is answered before four have asked
    numbers = [number % 25 for number in range(32)]
    answers = ask(server, *map(grey, numbers), requests=4, timeout_s=30.0)
    assert [answer.text for answer in answers if isinstance(answer, Described)] == [f"frame {i}" for i in numbers]


def test_pictures_are_read_as_they_are_needed(server: ChatServer) -> None:
    """Catches a whole part decoded into memory before the first question."""
    read = 0

    def images() -> Iterator[np.ndarray]:
        nonlocal read
        for number in range(25):
            read += 1
            yield grey(number)

    answers = Endpoint(server.url, "tiny", requests=2).open().caption(images())
    assert next(answers) == Described("frame 0", "tiny-2031-01-01")
    assert read <= 5


@pytest.mark.parametrize(
    "failure",
    [
        {"status": 429, "body": {"error": {"message": "slow down"}}, "headers": {"Retry-After": "0"}},
        {"status": 500, "body": "Internal Server Error"},
        {"status": 503, "body": {"detail": "loading"}, "headers": {"Retry-After": "nonsense"}},
        {"status": 408},
        {"body": "not JSON {"},
        {"body": {"choices": []}},
        {"body": {"error": {"message": "an error that calls itself a success"}}},
        {"body": []},
        {"body": "null"},
        {"body": answer(None)},
        {"body": answer(7)},
        {"body": '{"choices"', "headers": {"Content-Length": "9999", "Connection": "close"}, "hangs_up": True},
    ],
    ids=lambda failure: str(failure)[:60],
)
def test_what_passes_is_tried_again(server: ChatServer, failure: dict[str, Any]) -> None:
    """Catches a clip lost to a moment's trouble of the server."""
    server.script = [failure, failure]
    assert ask(server) == [Described("frame 1", "tiny-2031-01-01")]
    assert len(server.requests) == 3


def test_what_does_not_pass_is_told(server: ChatServer) -> None:
    """Catches endless tries, and a failure without a reason; the next images are served."""
    server.script = [{"status": 500, "body": {"error": {"message": "no memory left"}}}] * 3
    failed, good = ask(server, grey(1), grey(2), requests=1)
    assert failed == Undescribed(f"{server.url}/chat/completions: 500: no memory left (3 attempts)")
    assert good == Described("frame 2", "tiny-2031-01-01")
    server.script = [{"body": "<html>\n  a page of a proxy</html>"}] * 3
    (failed,) = ask(server)
    assert isinstance(failed, Undescribed)
    assert "malformed answer: '<html> a page of a proxy</html>'" in failed.reason


def test_a_server_that_hangs(server: ChatServer) -> None:
    """Catches a request that waits for ever, and a time-out that is not tried again."""
    server.script = [{"hangs": True}]
    assert ask(server, timeout_s=0.5, attempts=9) == [Described("frame 1", "tiny-2031-01-01")]
    server.script = [{"hangs": True}] * 2
    (failed,) = ask(server, timeout_s=0.1, attempts=2)
    assert failed == Undescribed(f"{server.url}/chat/completions: no answer within 0.1 s (2 attempts)")


def test_nobody_listens(server: ChatServer) -> None:
    """Catches a traceback where a connection is refused."""
    server.shutdown()
    server.server_close()
    (failed,) = ask(server)
    assert isinstance(failed, Undescribed)
    assert failed.reason.endswith("refused (3 attempts)")


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_picture_is_not_sent_again(server: ChatServer, status: int) -> None:
    """Catches five tries at what will never work, and the server's reason lost."""
    server.script = [{"status": status, "body": {"error": {"message": "picture\ntoo small"}}}]
    failed, good = ask(server, grey(1), grey(2), requests=1)
    assert failed == Undescribed(f"{server.url}/chat/completions: {status}: picture too small")
    assert isinstance(good, Described)
    assert len(server.requests) == 2


def test_a_model_that_declines(server: ChatServer) -> None:
    """Catches a refusal taken for a caption, or asked for again and again."""
    server.script = [{"body": answer(None, refusal="I cannot help with that.")}]
    assert ask(server) == [Undescribed("refused: I cannot help with that.")]
    assert len(server.requests) == 1


def test_an_answer_in_parts(server: ChatServer) -> None:
    """Catches a server's list of parts taken for malformed."""
    server.script = [{"body": answer([{"type": "text", "text": "a "}, {"type": "text", "text": "dog"}])}]
    assert ask(server) == [Described("a dog", "tiny-2031-01-01")]


@pytest.mark.parametrize("status", [401, 403, 404, 301])
def test_what_would_befall_all_stops_the_job(server: ChatServer, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a thousand clips listed as bad because of a mistyped model; a key on the screen; a key sent elsewhere."""
    monkeypatch.setenv("CLIPVIP_API_KEY", KEY)
    told = {"error": {"message": f"no such model, or key {KEY}"}}
    server.script = [{"status": status, "body": told, "headers": {"Location": f"{server.url}/elsewhere"}}] * 2
    with pytest.raises(ClipVipError, match=f"{status}: no such model, or key ...; check the address") as caught:
        ask(server, grey(1), grey(2), requests=1)
    assert KEY not in str(caught.value)
    assert {request["path"] for request in server.requests} == {"/v1/chat/completions"}


def test_a_missing_key_is_named(server: ChatServer) -> None:
    """Catches an error that does not say where a key belongs."""
    server.script = [{"status": 401}]
    with pytest.raises(ClipVipError, match="no key is set: CLIPVIP_API_KEY or OPENAI_API_KEY"):
        ask(server)


def test_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a server asked again before it wants to be, all clients at one moment, and waits without end."""
    waits: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    captioner = Endpoint("http://127.0.0.1:9/v1", "tiny", backoff_s=1.0, attempts=9).open()
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    headers = iter(["7", "-3", "1e9", "nan", soon, None, None, None])
    monkeypatch.setattr(
        captioner, "_ask", lambda question: module._Again("busy", module._retry_after_s(next(headers, None)))
    )
    assert list(captioner.caption([grey(1)])) == [Undescribed("busy (9 attempts)")]
    assert waits[:3] == [7.0, 0.0, 60.0]
    assert 30 < waits[4] <= 40
    for attempt in (3, 5, 6, 7):
        assert min(2**attempt, 60) / 2 <= waits[attempt] <= min(2**attempt, 60)


def test_addresses() -> None:
    """Catches requests to a place that nobody meant, and a key that would be written down with the address."""
    assert module.chat_url("http://host:8000/v1/") == "http://host:8000/v1/chat/completions"
    assert module.chat_url("https://host") == "https://host/v1/chat/completions"
    assert module.chat_url("https://host/openai/v2") == "https://host/openai/v2/chat/completions"
    for bad in ("http://user:secret@host/v1", "https://host/v1?key=secret"):
        with pytest.raises(UsageError, match="belongs into the variable CLIPVIP_API_KEY") as caught:
            Endpoint(bad, "tiny")
        assert "secret" not in str(caught.value)
    for bad in ("http://", "http://host:port/v1", "ftp://host/v1"):
        with pytest.raises(UsageError, match="--model"):
            Endpoint(bad, "tiny")


def test_impossible_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches errors that come only after hours, and a key in the message that says it is none."""
    with pytest.raises(UsageError, match="which of the server's models"):
        Endpoint("http://host/v1", "")
    with pytest.raises(UsageError, match="--timeout 0: must be more than 0"):
        Endpoint("http://host/v1", "tiny", timeout_s=0)
    monkeypatch.setenv("CLIPVIP_API_KEY", "sk-sécret")
    with pytest.raises(UsageError, match=r"CLIPVIP_API_KEY: holds characters that no key has$"):
        Endpoint("http://host/v1", "tiny")


def test_what_a_job_hangs_on() -> None:
    """Catches a key or an address in job.json: with another server the job could not go on."""
    settings = Endpoint("http://a/v1", "tiny").settings()
    assert settings == Endpoint("http://b/v1", "tiny", requests=3, timeout_s=9).settings()
    assert settings != Endpoint("http://a/v1", "tiny", prompt="?").settings()
    assert "http" not in str(settings)
