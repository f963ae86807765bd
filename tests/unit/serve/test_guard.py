"""Who is let in, and what every answer carries."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from clipvip.errors import UsageError
from clipvip.serve.config import ServeConfig
from clipvip.serve.guard import COOKIE, Guard, Rates

TOKEN = "a-token-that-is-long"


def client(base_url: str = "http://localhost:8000", **fields) -> TestClient:
    """A browser before a guarded application whose routes all say where they are."""

    async def here(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(request.url))

    app = Starlette(routes=[Route("/{path:path}", here, methods=["GET", "POST"])])
    app.add_middleware(Guard, config=ServeConfig(**fields))
    return TestClient(app, base_url, follow_redirects=False)


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
def test_loopback_has_several_names(host):
    """Catches a server that refuses the address it told."""
    assert client().get("/api/x", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "evil.example:8000", "", "[::1", "a b"])
def test_another_name_for_this_machine_is_refused(host):
    """Catches DNS rebinding: a page whose name points to 127.0.0.1 reads the library."""
    answer = client().get("/api/x", headers={"host": host})
    assert answer.status_code == 421
    assert answer.json()["error"]["code"] == "wrong_host"


def test_other_addresses_need_a_token():
    """Catches a library that the whole network can read."""
    for fields in ({"host": "0.0.0.0"}, {"host": "::"}, {"host": "192.168.1.2"}, {"names": ("films.example",)}):
        with pytest.raises(UsageError, match="token"):
            ServeConfig(**fields)
        ServeConfig(**fields, token=TOKEN)
    with pytest.raises(UsageError, match="guessed"):
        ServeConfig(token="secret")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://["},
    ],
)
def test_other_sites_cannot_change_anything(headers):
    """Catches a form on another site that starts a job or spends an upload."""
    guarded = client()
    answer = guarded.post("/api/jobs", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "cross_site"
    assert guarded.post("/api/jobs").status_code == 200  # curl sends neither header
    own = {"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}
    assert guarded.post("/api/jobs", headers=own).status_code == 200


def test_token():
    """Catches an API that is open without the token, one that is closed with it, and a token left in the address."""
    guarded = client(token=TOKEN)
    refused = guarded.get("/api/search?q=a")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    for wrong in ("", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer ä".encode()):
        assert guarded.get("/api/x", headers={"authorization": wrong}).status_code == 401
    assert guarded.get("/api/x", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert guarded.get("/api/health").status_code == 200
    assert guarded.get("/").status_code == 200  # the page, which holds nothing
    assert guarded.get("/api/x?token=wrong").status_code == 401
    assert guarded.post(f"/api/x?token={TOKEN}").status_code == 401

    moved = guarded.get(f"/?q=a&token={TOKEN}")
    assert (moved.status_code, moved.headers["location"]) == (303, "/?q=a")
    cookie = moved.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert guarded.get("/api/x").status_code == 200  # with the cookie
    guarded.cookies.set(COOKIE, "0" * 64)
    assert guarded.get("/api/x", headers={"cookie": f"{COOKIE}={'0' * 64}"}).status_code == 401


def test_token_redirects_stay_here():
    """Catches an open redirect: /?token= on a path that a browser reads as another server."""
    moved = client(token=TOKEN).get(f"http://localhost:8000//evil.example/?token={TOKEN}")
    assert moved.headers["location"] == "/evil.example/"


def test_every_answer_is_marked():
    """Catches a route, or a refusal, without the policy that keeps scripts of others out."""
    guarded = client(token=TOKEN)
    for path in ("/", "/api/health", "/api/secret"):
        headers = guarded.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    assert guarded.get("/api/health").headers["cache-control"] == "no-store"


def test_rates():
    """Catches a limit that lets a client burst for ever, never forgives it, or makes others wait for it."""
    now = [0.0]
    rates = Rates(per_s=2.0, burst=3, clock=lambda: now[0])
    assert [rates.wait_s("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert rates.wait_s("b") == 0
    now[0] = 0.5
    assert rates.wait_s("a") == 0
    assert rates.wait_s("a") == 0.5
    now[0] = 100.0
    assert [rates.wait_s("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert Rates(per_s=0, burst=0, clock=lambda: 0.0).wait_s("a") == 0


def test_too_many_requests_are_told_when_to_come_again():
    """Catches a limit without Retry-After."""
    guarded = client(requests_per_s=0.001, burst=1)
    assert guarded.get("/api/x").status_code == 200
    answer = guarded.get("/api/x")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
