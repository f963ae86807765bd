"""One index of colour videos, one server and one Chromium for all tests of the page."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from clipvip.search import Library
from helpers_browser import HTML_NAME, Server, Visit, chromium
from helpers_colors import color_picture, write_color_model, write_color_video

DAY = [("yellow", 4), ("blue", 4), ("yellow", 4)]


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A folder of videos: one colour each, three in a row, a long one, one in an old format, a broken one."""
    folder = tmp_path_factory.mktemp("place") / "videos"
    for name in ("red", "green"):
        write_color_video(folder / "plain" / f"{name}.mp4", [(name, 3)])
    write_color_video(folder / "reels" / "day.mp4", DAY)
    write_color_video(folder / "reels" / "long.mp4", [(name, 4) for name in ("white", "green") * 15])
    write_color_video(folder / HTML_NAME, [("purple", 2)])
    write_color_video(folder / "old" / "white.avi", [("white", 3)], codec="mpeg4")
    (folder / "old" / "broken <b>.mp4").write_text("not a video")
    return folder


@pytest.fixture(scope="session")
def server(videos):
    """`clipvip serve` of an index of `videos` in windows of 4 s."""
    place = videos.parent
    write_color_model(place / "model")
    Library(place / "index", place / "model", windows_s=4.0).add(videos)
    server = Server(place / "index", cache=place / "cache")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser, server, screenshots, request):
    """Opens pages of the server; each is checked at the end for console errors and requests to elsewhere."""
    visits = []

    def open_page(address: str = "", **options) -> Visit:
        visits.append(Visit(browser, server.url, **options))
        visits[-1].page.goto(address or server.url)
        return visits[-1]

    yield open_page
    for number, visit in enumerate(visits):
        if request.node.stash.get(FAILED, False):
            visit.page.screenshot(path=screenshots / f"failed-{request.node.name}-{number}.png")
        visit.close()


@pytest.fixture
def color_image():
    """Makes a PNG of a colour."""

    def make(name: str) -> bytes:
        file = io.BytesIO()
        Image.fromarray(color_picture(name)).save(file, "PNG")
        return file.getvalue()

    return make


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures are kept: CLIPVIP_SCREENSHOTS, or build/browser."""
    folder = Path(os.environ.get("CLIPVIP_SCREENSHOTS", "build/browser"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
