"""What a request has to get past before anything is done for it, and the headers that every answer carries.

Plain ASGI, so that streams pass through untouched.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipvip.serve.config import ServeConfig
from clipvip.serve.problems import BodyProblem, answer

COOKIE = "clipvip-session"
POLICY = (
    "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
MAX_CLIENTS = 10_000
UPLOADS = "/api/uploads"
FORM_BYTES = 64 << 10
"""What a multipart form may hold beside the file."""
BODY_BYTES = 1 << 20
"""Of a request that is no upload."""
BODY_S = 20.0
BODY_BYTES_PER_S = 32 << 10
"""A body may take BODY_S, and a second more for each so many bytes of it that have come."""
OPEN = ("/api/health",)


class Guard:
    """Host, rate, origin and token of every request, in this order."""

    def __init__(self, app: ASGIApp, config: ServeConfig, clock: Callable[[], float] = time.monotonic):
        self.app = app
        self.config = config
        self.clock = clock
        self.rates = Rates(config.requests_per_s, config.burst, clock)
        self.token = _digest(config.token) if config.token else None
        self.cookie = hmac.new(self.token, b"session", sha256).hexdigest() if self.token else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if scope["path"].startswith("/api/"):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        limit = self.config.upload_bytes + FORM_BYTES if scope["path"] == UPLOADS else BODY_BYTES
        refusal = self.refusal(scope) or _too_large(Headers(scope=scope), limit)
        body = _Body(receive, limit, self.clock)
        await (self.app if refusal is None else refusal)(scope, body.receive, send_guarded)

    def refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that is not let in."""
        headers = Headers(scope=scope)
        hosts = self.config.hosts
        if hosts is not None and _host(headers.get("host", "")) not in hosts:
            # a page of another site, whose name was made to point to this machine
            return answer(421, "wrong_host", "this server does not go by that name; start it with --name for others")
        client = scope["client"][0] if scope.get("client") else ""
        wait_s = self.rates.wait_s(client)
        if wait_s > 0:
            return answer(
                429, "too_many_requests", "too many requests; wait a moment", {"Retry-After": str(int(wait_s) + 1)}
            )
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and _is_cross_site(headers):
            return answer(403, "cross_site", "requests that change something must come from this server's own page")
        return self._without_token(scope, headers)

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        if self.token is None:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        offered = next((value for name, value in query if name == "token"), None)
        if offered is not None and scope["method"] == "GET" and self._is_token(offered):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            # never to "//host": that would be another server
            path = "/" + scope["path"].lstrip("/")
            response = RedirectResponse(path + ("?" + rest if rest else ""), 303)
            secure = scope["scheme"] == "https"
            response.set_cookie(COOKIE, self.cookie, httponly=True, samesite="strict", secure=secure)
            return response
        held = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        if hmac.compare_digest(held.encode(), self.cookie.encode()):
            return None
        if not scope["path"].startswith("/api") or scope["path"] in OPEN:
            return None  # the page itself holds nothing; it asks for the token
        return answer(
            401,
            "token_needed",
            "this server needs its token: open the page with ?token=..., or send Authorization: Bearer ...",
            {"WWW-Authenticate": "Bearer"},
        )

    def _is_token(self, given: str) -> bool:
        assert self.token is not None
        return hmac.compare_digest(_digest(given), self.token)


class _Body:
    """The body of a request as it comes: no larger than `limit`, and no slower than BODY_BYTES_PER_S after BODY_S."""

    def __init__(self, receive: Receive, limit: int, clock: Callable[[], float]):
        self._receive, self._limit, self._clock = receive, limit, clock
        self._started_s, self._num_bytes, self._whole = clock(), 0, False

    async def receive(self) -> Message:
        """The next message. Raises: BodyProblem."""
        if self._whole:  # what comes now is the end of the connection, whenever that is
            return await self._receive()
        left_s = self._started_s + BODY_S + self._num_bytes / BODY_BYTES_PER_S - self._clock()
        try:
            message = await asyncio.wait_for(self._receive(), max(left_s, 0.001))
        except TimeoutError:
            raise BodyProblem(408, "too_slow", "the body of the request comes too slowly; send it again") from None
        self._num_bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._num_bytes > self._limit:
            raise BodyProblem(413, "too_large", f"the body of the request is larger than {self._limit:,} bytes")
        return message


def _too_large(headers: Headers, limit: int) -> Response | None:
    """The answer to a request that announces too large a body."""
    try:
        announced = int(headers.get("content-length", "0"))
    except ValueError:
        return None  # which the server's own parser refuses
    if announced <= limit:
        return None
    return answer(413, "too_large", f"the body of the request is larger than {limit:,} bytes", {"Connection": "close"})


class Rates:
    """Token buckets: each client may make `burst` requests at once, and `per_s` a second in the long run (0: any)."""

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float]):
        self.per_s, self.burst, self.clock = per_s, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client: (what was left, when)

    def wait_s(self, client: str) -> float:
        """Seconds until this client may come again; 0: now, and this request counts."""
        if not self.per_s:
            return 0.0
        now = self.clock()
        left, then = self._buckets.pop(client, (float(self.burst), now))
        left = min(float(self.burst), left + (now - then) * self.per_s)
        wait_s = max(0.0, (1 - left) / self.per_s)
        self._buckets[client] = (left - (wait_s == 0), now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return wait_s


def _host(value: str) -> str:
    """The name in a Host header, without its port: "[::1]:80" -> "::1". Empty for what is none."""
    try:
        return (urlsplit(f"//{value}").hostname or "").lower()
    except ValueError:
        return ""


def _is_cross_site(headers: Headers) -> bool:
    """Whether a browser sent this for a page of another origin; programs send neither header."""
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()


def _digest(text: str) -> bytes:
    """Of one length whatever the text's, so that comparing tells nothing of it."""
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
