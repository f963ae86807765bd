"""Chromium for the page's tests, and a `clipvip serve` of its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Route, expect, sync_playwright

from helpers_colors import RGB

CHROMIUM = os.environ.get("CLIPVIP_CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HTML_NAME = "<img src=x onerror=document.title='owned'>.mp4"
PATIENCE_MS = 60_000
"""Of a check that waits for something: busy machines are slow."""
DESKTOP = {"width": 1280, "height": 800}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
WATCH_MEDIA = """
window.media = [];  // what the video elements of the page did, and where they stood
for (const type of ["playing", "seeked"]) {
  document.addEventListener(type, ({ target }) => window.media.push({ type, at: target.currentTime }), true);
}
"""
PIXEL = """(video) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  return [...context.getImageData(4, 4, 1, 1).data.slice(0, 3)];
}"""


class Server:
    """`clipvip serve` of an index. `url` stays the same when it is stopped and started again.

    cache: its folder for what it can make again; otherwise the user's own.
    """

    def __init__(self, index: Path, *options: str, cache: Path | None = None):
        self._command = [sys.executable, "-m", "clipvip", "serve", "--index", str(index), *options]
        self._environment = os.environ | ({"XDG_CACHE_HOME": str(cache)} if cache else {})
        self._process: subprocess.Popen[str] | None = None
        self.port = 0
        self.url = ""

    def start(self) -> None:
        """Return when it answers."""
        command = [*self._command, "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self._environment)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # "serving INDEX at URL (Ctrl-C ends it)"
        assert " at http://" in line, f"{' '.join(command)}: {line or 'it ended at once'}"
        self.url = line.rsplit(" at ", 1)[1].split()[0].rstrip("/") + "/"
        self.port = urlsplit(self.url).port or 0

    def stop(self) -> None:
        """Like a crash: without warning."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.communicate()
            self._process = None

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._process is not None


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, or the one that CLIPVIP_CHROMIUM names, with a profile that is new and is thrown away."""
    assert Path(CHROMIUM).is_file(), (
        f"{CHROMIUM}: no Chromium there (apt install chromium), or name it: CLIPVIP_CHROMIUM"
    )
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page in a browser window of its own, watched: errors on the console, and requests to anywhere else.

    expected: beginnings of console errors that the test provokes.
    """

    def __init__(self, browser: Browser, url: str, **options: Any):
        context_options = {"viewport": DESKTOP, "color_scheme": "light"} | options
        self.context: BrowserContext = browser.new_context(base_url=url, **context_options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.context.add_init_script(WATCH_MEDIA)
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.expected: tuple[str, ...] = ()
        self._origin = urlsplit(url)[:2]
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.context.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("blob", "data") and address[:2] != self._origin:
            self.elsewhere.append(request.url)

    def close(self) -> None:
        """Raises: AssertionError if the page did what it never may."""
        self.context.close()
        assert self.elsewhere == []
        assert [error for error in self.errors if not error.startswith(self.expected or "\0")] == []


def accessibility_issues(page: Page) -> list[str]:
    """What axe-core finds serious or critical in the page as it is: rule, what it means, elements."""
    script = (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    page.evaluate(script)
    found = page.evaluate("() => axe.run()")["violations"]
    return [
        f"{issue['id']}: {issue['help']}: {json.dumps([node['target'] for node in issue['nodes']])}"
        for issue in found
        if issue["impact"] in ("serious", "critical")
    ]


def ask(page: Page, text: str) -> None:
    """Type a query and wait for its answer."""
    page.get_by_label("What to look for").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".card:not(.waiting)").first).to_be_visible()
    expect(page.locator("#grid")).not_to_have_attribute("aria-busy", "true")


def hold(page: Page, address: str) -> Callable[[], None]:
    """The next request for this address pattern waits, until what is returned here is called."""
    waiting: list[Route] = []
    page.route(address, lambda route: waiting.append(route), times=1)

    def release() -> None:
        while not waiting:
            page.wait_for_timeout(10)  # lets its events in
        waiting.pop().continue_()

    return release


def names(page: Page) -> list[str]:
    """File names of the results, best first."""
    return page.locator(".card .name").all_text_contents()


def first(page: Page) -> tuple[str, str]:
    """File name and time range of the first result."""
    card = page.locator(".card").first
    return card.locator(".name").text_content() or "", card.locator(".when").text_content() or ""


def wait_for_media(page: Page, kind: str, count: int = 1) -> list[float]:
    """Where the video stood at each event of this kind, once there are so many."""
    page.wait_for_function(
        "([kind, count]) => window.media.filter(({ type }) => type === kind).length >= count", arg=[kind, count]
    )
    return [event["at"] for event in page.evaluate("window.media") if event["type"] == kind]


def is_color(pixel: list[int], name: str) -> bool:
    """Whether a picture of `helpers_colors` has this colour, by one pixel of it."""
    return all(abs(a - b) < 40 for a, b in zip(pixel, RGB[name], strict=True))
