"""A walk through every state of the page, for its pictures in the docs and for a look at its accessibility.

python tests/browser/gallery.py --index runs/demo/index --query "a red circle grows on the grass" --out docs/images
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from helpers_browser import PHONE, Server, Visit, ask, chromium

KEPT = ("results-light", "player-dark", "terms-light", "library-light", "phone")
"""The pictures that docs/search.md shows."""


def walk(browser: Browser, url: str, query: str, look: Callable[[Page, str], None]) -> None:
    """Go from state to state, and `look(page, name of the state)` at each."""
    for scheme in ("light", "dark"):
        visit = Visit(browser, url, color_scheme=scheme)
        visit.expected = ("Failed to load resource: the server responded with a status of 422",)
        _walk_on_desktop(visit.page, url, query, lambda page, name, s=scheme: look(page, f"{name}-{s}"))
        visit.close()
    visit = Visit(browser, url, **PHONE, device_scale_factor=2)
    visit.page.goto(url)
    ask(visit.page, query)
    _see_pictures(visit.page)
    look(visit.page, "phone")
    visit.page.locator(".card .main").first.tap()
    _see_video(visit.page)
    look(visit.page, "phone-player")
    visit.page.goto(f"{url}?view=library")
    expect(visit.page.get_by_role("rowheader").first).to_be_visible()
    look(visit.page, "phone-library")
    visit.close()


def _walk_on_desktop(page: Page, url: str, query: str, look: Callable[[Page, str], None]) -> None:
    page.goto(url)
    expect(page.locator(".examples a").first).to_be_visible()
    look(page, "start")
    ask(page, query)
    page.locator(".card .frame").nth(1).hover(position={"x": 120, "y": 50})
    expect(page.locator(".card .strip").nth(1)).to_be_visible()
    _see_pictures(page)
    look(page, "results")
    page.locator(".card .main").first.click()
    expect(page.locator("#player .about")).to_contain_text("×")
    _see_video(page)
    look(page, "player")
    page.get_by_role("dialog").get_by_role("button", name="More like this").click()
    expect(page.locator("#terms .chip")).to_have_count(1)
    page.get_by_label("What to look for").fill("at night")
    page.get_by_role("button", name="Add term").click()
    page.get_by_label("Weight of at night").select_option("without")
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Path").fill("**/*.mp4")
    page.keyboard.press("Tab")
    expect(page.locator("#grid")).not_to_have_attribute("aria-busy", "true")
    _see_pictures(page)
    look(page, "terms")
    page.goto(f"{url}?q={query}&path=nowhere/**")
    expect(page.get_by_role("heading", name="Nothing passes")).to_be_visible()
    look(page, "nothing")
    page.goto(f"{url}?q={query}&min=x")
    expect(page.get_by_role("heading", name="did not work")).to_be_visible()
    look(page, "error")
    page.goto(f"{url}?view=library")
    expect(page.get_by_role("rowheader").first).to_be_visible()
    look(page, "library")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    look(page, "help")


def _see_pictures(page: Page) -> None:
    """Wait for the thumbnails that are in sight."""
    page.wait_for_function(
        """() => [...document.querySelectorAll(".card img")].every(
             (image) => image.getBoundingClientRect().top > innerHeight || image.naturalWidth > 0)"""
    )


def _see_video(page: Page) -> None:
    """Wait until it plays, from where it should."""
    page.wait_for_function(
        """() => {
             const video = document.querySelector("#player video");
             return !video.seeking && video.readyState >= 3 && video.played.length > 0;
           }"""
    )


def main() -> None:
    """The pictures of the docs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--query", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--all", action="store_true", help="all states, not only those that the docs show")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)

    def keep(page: Page, name: str) -> None:
        if given.all or name in KEPT:
            page.screenshot(path=given.out / f"page-{name}.jpg", type="jpeg", quality=80)

    server = Server(given.index)
    server.start()
    try:
        with chromium() as browser:
            walk(browser, server.url, given.query, keep)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
