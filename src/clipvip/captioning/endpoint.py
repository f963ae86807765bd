"""Captions from a server that speaks OpenAI's chat completions: vLLM and others, one machine or a cluster."""

from __future__ import annotations

import base64
import io
import math
import os
import random
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from clipvip.captioning.captioner import MAX_WORDS, PROMPT, TOKENS_A_WORD, Answer, Captioner, Described, Undescribed
from clipvip.errors import ClipVipError, UsageError
from clipvip.jobs import prefetch

KEY_VARIABLES = ("CLIPVIP_API_KEY", "OPENAI_API_KEY")
LONGEST_SIDE = 768
"""Of the picture that is sent, in pixels: enough for one sentence, and a model's tokens grow with the area."""
CONNECT_S = 10.0
LONGEST_WAIT_S = 60.0
"""Between two tries, whatever the server asks for."""
MAX_ANSWER_BYTES = 1 << 20
"""A caption has a few hundred."""
ENCODING_HEADERS = ("content-encoding", "content-length", "transfer-encoding")  # they speak of the bytes on the wire
_AGAIN = (408, 425, 429)  # and all from 500 on: the server's trouble, not the question's
_FOR_ALL = (401, 403, 404, 405)  # not this image's fault: all others would fare the same


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server with a vision model.

    url: up to and with its version ("http://host:8000/v1"); model: as the server calls it. revision: what to note of
    the weights; None: what the server calls the model in its answers. requests: at once, by each worker. timeout_s: for
    one answer. attempts: for one image; between two of them backoff_s, doubled each time, or what the server asks for.
    """

    url: str
    model: str
    revision: str | None = None
    prompt: str | None = None
    max_words: int = MAX_WORDS
    requests: int = 16
    timeout_s: float = 120.0
    attempts: int = 5
    backoff_s: float = 1.0

    def __post_init__(self) -> None:
        """Raises: UsageError for an impossible address, key or number."""
        chat_url(self.url)
        api_key()
        if not self.model:
            raise UsageError(f"--model {self.url}: which of the server's models? --api-model NAME")
        if not 0 < self.timeout_s < math.inf:
            raise UsageError(f"--timeout {self.timeout_s:g}: must be more than 0 seconds")

    @property
    def name(self) -> str:
        """As the server calls it."""
        return self.model

    @property
    def silence_s(self) -> float:
        """All attempts for one image."""
        return self.attempts * (self.timeout_s + CONNECT_S + LONGEST_WAIT_S)

    def settings(self) -> dict[str, Any]:
        """Not the address: another server with the same model may go on."""
        return {
            "model": self.model,
            "revision": self.revision,
            "prompt": self.filled_prompt,
            "max_words": self.max_words,
        }

    @property
    def filled_prompt(self) -> str:
        """The words that go with each image."""
        return self.prompt if self.prompt is not None else PROMPT.format(max_words=self.max_words)

    def open(self) -> Captioner:
        """Nothing is asked yet."""
        return EndpointCaptioner(self)


class _Again(NamedTuple):
    """Worth another try; wait_s: as the server asked."""

    reason: str
    wait_s: float | None = None


class _TooLong(Exception):
    """An answer of more than MAX_ANSWER_BYTES."""


class EndpointCaptioner:
    """Asks for one caption a request, several at once, and keeps connections open."""

    def __init__(self, endpoint: Endpoint):
        import httpx2

        self._endpoint = endpoint
        self._url = chat_url(endpoint.url)
        self._key = api_key()
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(endpoint.timeout_s, connect=min(CONNECT_S, endpoint.timeout_s)),
            limits=httpx2.Limits(max_connections=endpoint.requests, max_keepalive_connections=endpoint.requests),
        )

    def caption(self, images: Iterable[np.ndarray]) -> Iterator[Answer]:
        """See `Captioner`. Raises: ClipVipError if the server knows neither the model nor the key."""
        requests = self._endpoint.requests
        return prefetch(self._describe, images, ahead=2 * requests, threads=requests)

    def _describe(self, image: np.ndarray) -> Answer:
        question = self._question(image)
        reason = ""
        for attempt in range(self._endpoint.attempts):
            answer = self._ask(question)
            if not isinstance(answer, _Again):
                return answer
            reason = answer.reason
            if attempt + 1 < self._endpoint.attempts:
                time.sleep(self._wait_s(attempt, answer))
        return Undescribed(f"{reason} ({self._endpoint.attempts} attempts)")

    def _wait_s(self, attempt: int, answer: _Again) -> float:
        if answer.wait_s is not None:
            return min(max(answer.wait_s, 0.0), LONGEST_WAIT_S)
        # not all at the same moment again
        return min(self._endpoint.backoff_s * 2**attempt, LONGEST_WAIT_S) * random.uniform(0.5, 1.0)

    def _question(self, image: np.ndarray) -> dict[str, Any]:
        content = [
            {"type": "image_url", "image_url": {"url": data_url(image)}},
            {"type": "text", "text": self._endpoint.filled_prompt},
        ]
        return {
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": TOKENS_A_WORD * self._endpoint.max_words,
        }

    def _ask(self, question: dict[str, Any]) -> Answer | _Again:
        import httpx2

        try:
            response = self._post(question)
        except (httpx2.TimeoutException, TimeoutError):
            return _Again(f"{self._url}: no answer within {self._endpoint.timeout_s:g} s")
        except _TooLong:
            return _Again(f"{self._url}: an answer of more than {MAX_ANSWER_BYTES:,} bytes")
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            return _Again(f"{self._url}: {self._safe(str(error)) or type(error).__name__}")
        status = response.status_code
        if 200 <= status < 300:
            return self._read(response)
        told = f"{self._url}: {status}: {self._safe(_message(response))}"
        if status in _AGAIN or status >= 500:
            return _Again(told, _retry_after_s(response.headers.get("Retry-After")))
        if status in _FOR_ALL or status < 400:
            way_out = "" if self._key else f" (no key is set: {' or '.join(KEY_VARIABLES)})"
            raise ClipVipError(f"{told}; check the address, --api-model {self._endpoint.model} and the key{way_out}")
        return Undescribed(told)

    def _post(self, question: dict[str, Any]) -> Any:
        """The answer, read as a whole. Raises: TimeoutError, if it comes too slowly; _TooLong; what httpx raises.

        httpx's own time-out is for one read: an answer that comes a byte at a time would take for ever. The thread of
        such an answer ends when the server closes the connection; those that are open are limited.
        """
        outcome: SimpleQueue[Any] = SimpleQueue()

        def work() -> None:
            try:
                outcome.put(self._receive(question))
            except Exception as error:  # noqa: BLE001 - handed to the caller
                outcome.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            answer = outcome.get(timeout=self._endpoint.timeout_s + CONNECT_S)
        except Empty:
            raise TimeoutError from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _receive(self, question: dict[str, Any]) -> Any:
        import httpx2

        until_s = time.monotonic() + self._endpoint.timeout_s
        body = bytearray()
        with self._client.stream("POST", self._url, json=question) as response:
            for part in response.iter_bytes():
                body += part
                if len(body) > MAX_ANSWER_BYTES:
                    raise _TooLong
                if time.monotonic() > until_s:
                    raise TimeoutError
        headers = {name: value for name, value in response.headers.items() if name not in ENCODING_HEADERS}
        return httpx2.Response(response.status_code, headers=headers, content=bytes(body), request=response.request)

    def _read(self, response: Any) -> Answer | _Again:
        try:
            answer = response.json()
            message = answer["choices"][0]["message"]
            content, refusal = message.get("content"), message.get("refusal")
        except (ValueError, LookupError, TypeError, AttributeError):
            return _Again(f"{self._url}: malformed answer: {self._safe(_shortened(response.text))!r}")
        if refusal:
            return Undescribed(f"refused: {_shortened(str(refusal))}")
        if isinstance(content, list):  # some servers answer in parts
            content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
        if not isinstance(content, str):
            return _Again(f"{self._url}: an answer without text")
        return Described(content, self._endpoint.revision or str(answer.get("model") or "unknown"))

    def _safe(self, text: str) -> str:
        """Some servers say which key it was that they do not like."""
        return text.replace(self._key, "...") if self._key else text


def chat_url(url: str) -> str:
    """Where to ask. Raises: UsageError for what is no plain http(s) address."""
    import httpx2

    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise UsageError(f"--model {url}: no address ({error})") from None
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise UsageError(
            f"--model: an address with a user, query or fragment; a key belongs into the variable {KEY_VARIABLES[0]}"
        )
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"--model {url}: no http(s) address of a server")
    path = parsed.path.rstrip("/") or "/v1"
    return str(parsed.copy_with(path=f"{path}/chat/completions"))


def api_key() -> str | None:
    """Of the environment; it stands nowhere else. Raises: UsageError for what can be no key."""
    for variable in KEY_VARIABLES:
        if key := os.environ.get(variable, "").strip():
            if not (key.isascii() and key.isprintable() and " " not in key):
                raise UsageError(f"{variable}: holds characters that no key has")
            return key
    return None


def data_url(image: np.ndarray) -> str:
    """uint8 [H, W, 3] as a JPEG, no larger than `LONGEST_SIDE`."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _message(response: Any) -> str:
    """What the server says is wrong."""
    try:
        answer = response.json()
        error = answer.get("error", answer)
        told = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        told = None
    return _shortened(str(told or response.text or response.reason_phrase))


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def _retry_after_s(header: str | None) -> float | None:
    """Seconds, or a date."""
    try:
        wait_s = float(header or "")
    except ValueError:
        try:
            wait_s = (parsedate_to_datetime(header or "") - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return wait_s if math.isfinite(wait_s) else None
