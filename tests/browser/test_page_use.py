"""The page: without a mouse, on a phone, in the dark, without a server, with names that mean ill, and its library."""

from __future__ import annotations

import re
import shutil
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from helpers_browser import HTML_NAME, PHONE, Server, Visit, ask, first, names, wait_for_media
from helpers_colors import write_color_video

pytestmark = pytest.mark.browser


def test_keyboard_alone(visit):
    """Catches a function that needs a mouse, and a focus that is lost when the player closes."""
    page = visit().page
    press = page.keyboard.press
    page.locator("body").evaluate("() => document.activeElement.blur()")
    press("/")
    page.keyboard.type("something blue")
    press("Enter")
    expect(page.locator(".card:not(.waiting)").first).to_be_visible()
    press("ArrowDown")
    expect(page.locator(".card .main").first).to_be_focused()
    press("Enter")
    wait_for_media(page, "playing")
    press("l")
    expect(page.get_by_role("button", name="Loop")).to_have_attribute("aria-pressed", "false")
    press("n")
    expect(page.locator("#player-name")).to_have_text(names(page)[1])
    press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.locator(".card .main").nth(1)).to_be_focused()

    columns = len(page.locator("#grid").evaluate("(grid) => getComputedStyle(grid).gridTemplateColumns").split())
    press("Home")
    press("ArrowDown")
    expect(page.locator(".card .main").nth(columns)).to_be_focused()
    press("ArrowRight")
    press("ArrowUp")
    expect(page.locator(".card .main").nth(1)).to_be_focused()
    press("Tab")
    expect(page.locator(".card .similar").nth(1)).to_be_focused()
    press("Shift+Tab")
    name = names(page)[1]
    press("m")
    expect(page.locator("#terms .chip bdi")).to_have_text(name)
    press("g")
    page.wait_for_url("**per_video=1*")
    press("f")
    expect(page.get_by_label("Folder")).to_be_focused()
    press("Escape")
    expect(page.get_by_role("button", name="Filters")).to_be_focused()
    press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_what_screen_readers_are_told(visit):
    """Catches results that come in silence, and cards without a name of their own."""
    page = visit().page
    ask(page, "something blue")
    expect(page.get_by_role("status").first).to_contain_text(re.compile(r"\d+ results"))
    expect(page.locator(".card .main").first).to_have_accessible_name(
        re.compile(r"^1\. day\.mp4, 4 seconds to 8 seconds, score 0\.\d{3}$")
    )
    page.get_by_role("button", name="1. day.mp4").click()
    expect(page.get_by_role("dialog", name="day.mp4")).to_be_visible()


def test_film_strip(visit):
    """Catches a strip of another segment or shape, and one that does not follow the pointer."""
    page = visit().page
    ask(page, "something blue")
    card = page.locator(".card", has_text="day.mp4").first
    frame, strip = card.locator(".frame"), card.locator(".strip")
    expect(strip).to_be_hidden()
    frame.hover(position={"x": 5, "y": 40})
    expect(strip).to_be_visible()
    start = strip.evaluate("(strip) => strip.style.backgroundPosition")
    num_frames = int(re.sub(r"00%.*", "", strip.evaluate("(strip) => strip.style.backgroundSize")))
    assert num_frames > 3
    frame.hover(position={"x": 150, "y": 40})
    assert strip.evaluate("(strip) => strip.style.backgroundPosition") != start
    page.get_by_label("What to look for").hover()
    expect(strip).to_be_hidden()


def test_little_motion(visit):
    """Catches a strip that moves by itself although the system asks for no motion."""
    page = visit(reduced_motion="reduce").page
    ask(page, "purple")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".card .strip").first).to_have_class(re.compile(r"\bwhole\b"))


def test_nothing_is_sure(visit):
    """Catches the nearest of what is not there shown as a find, and no way to see it all the same."""
    page = visit().page
    ask(page, "something blue")
    page.get_by_label("Only sure hits").check()
    page.wait_for_url("**sure=1*")
    expect(page.locator(".card .name").first).to_have_text("day.mp4")
    page.get_by_label("What to look for").fill("something orange")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Nothing here looks like that")).to_be_visible()
    expect(page.get_by_role("status").first).to_have_text("Nothing found")
    page.get_by_role("button", name="Show the nearest all the same").click()
    expect(page.locator(".card").first).to_be_visible()
    page.get_by_label("Only sure hits").check()
    expect(page.get_by_role("heading", name="Nothing here looks like that")).to_be_visible()


def test_nothing_passes_the_filters(visit):
    """Catches an empty page instead of words, and no way out."""
    page = visit("?q=red&path=nowhere/**").page
    expect(page.get_by_role("heading", name="Nothing passes the filters")).to_be_visible()
    page.get_by_role("button", name="Clear the filters").click()
    expect(page.locator(".card .name").first).to_have_text("red.mp4")


def test_the_server_is_gone_and_comes_back(visit, server):
    """Catches a page that waits for ever, shows old results as new ones, or cannot go on without a reload."""
    opened = visit()
    opened.expected = ("Failed to load resource: net::ERR_",)
    page = opened.page
    ask(page, "red")
    server.stop()
    try:
        page.get_by_label("What to look for").fill("purple")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="The server does not answer")).to_be_visible()
        expect(page.locator(".card")).to_have_count(0)
        page.get_by_role("button", name="Try again").click()
        expect(page.get_by_role("heading", name="The server does not answer")).to_be_visible()
        page.get_by_role("link", name="Library").click()
        expect(page.get_by_role("heading", name="The server does not answer")).to_be_visible()
        page.go_back()
    finally:
        server.start()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".card .name").first).to_have_text(HTML_NAME)


def test_a_server_with_a_token(browser, server, videos):
    """Catches a page that needs the token for its own parts, or does not say that the server wants it."""
    token = "a token that nobody guesses"
    guarded = Server(videos.parent / "index", "--token", token, cache=videos.parent / "cache")
    guarded.start()
    try:
        visit = Visit(browser, guarded.url)
        visit.expected = ("Failed to load resource: the server responded with a status of 401",)
        page = visit.page
        page.goto(guarded.url)
        expect(page.get_by_role("heading", name="This server asks for its token")).to_be_visible()
        page.get_by_role("link", name="Library").click()
        expect(page.get_by_role("heading", name="This server asks for its token")).to_be_visible()
        page.goto(f"{guarded.url}?token={quote(token)}")
        ask(page, "red")
        assert first(page)[0] == "red.mp4"
        page.locator(".card .main").first.click()
        wait_for_media(page, "playing")
        assert "token" not in page.url
        visit.close()
    finally:
        guarded.stop()


def test_html_in_a_file_name_is_text(visit):
    """Catches a file name that becomes part of the page: in a card, the player, a term, the library."""
    page = visit().page
    ask(page, "purple")
    card = page.locator(".card", has_text=HTML_NAME)
    expect(card.locator(".name")).to_have_text(HTML_NAME)
    card.locator(".main").click()
    expect(page.locator("#player-name")).to_have_text(HTML_NAME)
    wait_for_media(page, "playing")
    page.get_by_role("dialog").get_by_role("button", name="More like this").click()
    expect(page.locator("#terms .chip bdi")).to_have_text(HTML_NAME)
    assert first(page)[0] == HTML_NAME
    page.get_by_role("link", name="Library").click()
    expect(page.get_by_role("rowheader", name="broken <b>.mp4")).to_be_visible()
    assert page.locator("img[src='x'], bdi b").count() == 0
    assert "owned" not in page.title()


def test_phone(visit):
    """Catches a page that has to be scrolled sideways, and buttons too small for a finger."""
    page = visit(**PHONE).page
    ask(page, "something blue")
    is_wide = "() => document.documentElement.scrollWidth > innerWidth"
    assert not page.evaluate(is_wide)
    page.locator(".card .main").first.tap()
    wait_for_media(page, "playing")
    assert not page.evaluate(is_wide)
    for button in page.get_by_role("dialog").get_by_role("button").all():
        box = button.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 36
    page.get_by_role("button", name="Close").tap()
    page.get_by_role("button", name="Filters").tap()
    assert not page.evaluate(is_wide)
    page.get_by_role("link", name="Library").tap()
    expect(page.get_by_role("rowheader").first).to_be_visible()
    assert not page.evaluate(is_wide)


def test_light_and_dark(visit):
    """Catches a page that does not follow the system, or a choice that is not kept."""
    page = visit(color_scheme="dark").page
    brightness = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    assert max(page.evaluate(brightness)) < 50
    page.get_by_role("button", name="Theme: auto").click()
    assert min(page.evaluate(brightness)) > 200
    page.reload()
    assert min(page.evaluate(brightness)) > 200
    page.get_by_role("button", name="Theme: light").click()
    assert max(page.evaluate(brightness)) < 50


def test_first_paint_is_light(visit, server):
    """Catches a page that has grown: 200 KB is a second on a slow line."""
    opened = visit("about:blank")
    sizes = {}
    opened.page.on("response", lambda response: sizes.update({response.url: len(response.body())}))
    opened.page.goto(server.url)
    expect(opened.page.get_by_role("link", name="a dog catches")).to_be_visible()
    opened.page.wait_for_load_state("networkidle")
    assert len(sizes) > 10
    assert sum(sizes.values()) < 200_000


def test_index_and_forget(visit, videos):
    """Catches a job that starts in silence, one whose end is not told, and answers that do not know of it."""
    page = visit("?view=library").page
    expect(page.locator(".facts")).to_contain_text("Videos6")
    expect(page.get_by_role("row", name="broken <b>.mp4")).to_contain_text(re.compile("broken <b>.mp4.{10,}"))
    new = write_color_video(videos / "new" / "Käthe's red.mp4", [("red", 2.5)])
    try:
        page.get_by_role("button", name="Update").click()
        expect(page.locator(".job")).to_contain_text(f"Indexing {videos}")
        expect(page.locator(".job")).to_contain_text("Done: 1 video indexed, 6 unchanged")
        expect(page.locator(".facts")).to_contain_text("Videos7")
        ask(page, "red")
        assert {"Käthe's red.mp4", "red.mp4"} == set(names(page)[:2])
    finally:
        shutil.rmtree(new.parent)
        page.get_by_role("link", name="Library").click()
        page.get_by_role("button", name="Forget missing files").click()
        expect(page.locator(".job")).to_contain_text("Done: 1 missing file forgotten")
    expect(page.locator(".facts")).to_contain_text("Videos6")


def test_cancel(visit):
    """Catches a Cancel that cancels nothing, or leaves the page waiting."""
    page = visit("?view=library").page
    page.get_by_role("button", name="Update").click()
    page.get_by_role("button", name="Cancel").click()  # the process has not even finished to start
    expect(page.locator(".job")).to_have_class(re.compile("cancelled"))
    expect(page.get_by_role("progressbar")).to_have_count(0)
