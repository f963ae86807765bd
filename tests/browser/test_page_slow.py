"""The page while the server takes its time: what comes late, and what people do meanwhile."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import expect

from helpers_browser import ask, first, hold

pytestmark = pytest.mark.browser
TURN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Lets the page do what an answer that has come makes it do."""


def test_back_before_the_answer(visit):
    """Catches the answer to a question that was left, shown under the one that was gone back to."""
    page = visit().page
    ask(page, "white")
    expect(page.get_by_role("button", name="Show more")).to_be_visible()
    release = hold(page, "**/api/search")
    page.get_by_label("What to look for").fill("red")
    page.keyboard.press("Enter")
    page.wait_for_url("**?q=red")
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()  # it would add results of the new question
    page.go_back()
    page.wait_for_url("**?q=white")
    release()
    expect(page.locator("#grid")).not_to_have_attribute("aria-busy", "true")
    assert first(page)[0] != "red.mp4"
    expect(page.get_by_role("button", name="Show more")).to_be_visible()


def test_a_moment_that_is_gone_is_told_too_late(visit):
    """Catches the player closed over another moment, opened while the server looked for the first."""
    opened = visit("about:blank")
    opened.expected = ("Failed to load resource: the server responded with a status of 404",)
    page = opened.page
    release = hold(page, "**/api/videos/gone")
    page.goto("?q=red&open=gone-000000000-000004000")
    page.get_by_role("button", name="1. red.mp4").click()
    expect(page.get_by_role("dialog", name="red.mp4")).to_be_visible()
    with page.expect_response("**/api/videos/gone") as told:
        release()
    told.value.finished()
    page.evaluate(TURN)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_role("dialog", name="red.mp4")).to_be_visible()


@contextmanager
def endless_answer():
    """The address of a server that begins to answer, and does not go on before the end."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"{")
            ended.wait()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            ended.set()
            server.shutdown()


def test_left_in_the_middle_of_an_answer(visit):
    """Catches a question that was given up and is told as an error of the server."""
    page = visit().page
    with endless_answer() as address:
        page.route("**/api/search", lambda route: route.continue_(url=address))
        with page.expect_response(address):
            page.goto("?q=red")
        page.get_by_label("What to look for").fill("")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Find a moment")).to_be_visible()
        page.evaluate(TURN)
        expect(page.get_by_role("heading", name="Find a moment")).to_be_visible()


def test_the_library_is_left_before_it_is_there(visit):
    """Catches a library that draws itself, and follows its jobs, behind the search."""
    page = visit("?q=red").page
    release = hold(page, "**/api/libraries")
    page.get_by_role("link", name="Library").click()
    page.go_back()
    expect(page.locator("#library-view")).to_be_hidden()
    with page.expect_response("**/api/libraries") as told:
        release()
    told.value.finished()
    page.evaluate(TURN)
    expect(page.locator("#library-view h1")).to_have_count(0)
    page.get_by_role("link", name="Library").click()
    expect(page.get_by_role("heading", name="Folders")).to_be_visible()
    expect(page.locator("#library-view")).not_to_have_attribute("aria-busy", "true")
