"""The page: asking, what comes first, and that it plays from its start."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from helpers_browser import HTML_NAME, PIXEL, Visit, ask, first, is_color, names, wait_for_media

pytestmark = pytest.mark.browser


def test_a_text_finds_the_moment_and_it_plays_in_a_loop(visit):
    """Catches answers in another order than the server's, a player that starts at 0, shows another moment than the one
    that was found, or runs on beyond its end.
    """
    page = visit().page
    ask(page, "something blue")
    assert first(page) == ("day.mp4", "0:04–0:08")
    page.locator(".card .main").first.click()
    assert wait_for_media(page, "playing")[0] == pytest.approx(4, abs=0.5)
    assert wait_for_media(page, "seeked")[0] == pytest.approx(4, abs=0.1)
    video = page.locator("#player video")
    assert is_color(video.evaluate(PIXEL), "blue")

    page.evaluate("() => { window.media = []; }")
    video.evaluate("(video) => { video.currentTime = 7.6; }")
    assert wait_for_media(page, "seeked", 2) == pytest.approx([7.6, 4], abs=0.1)
    assert video.evaluate("(video) => video.played.end(video.played.length - 1)") < 8.5  # not by way of the film's end
    page.get_by_role("button", name="Loop").click()
    video.evaluate("(video) => { video.currentTime = 7.6; }")
    page.wait_for_function("() => document.querySelector('#player video').currentTime > 8.2")


def test_a_whole_video_plays_in_a_loop(visit):
    """Catches a loop that stops where the moment ends with its video."""
    page = visit().page
    ask(page, "red")
    page.get_by_role("button", name="1. red.mp4").click()
    wait_for_media(page, "playing")
    page.evaluate("() => { window.media = []; }")
    page.locator("#player video").evaluate("(video) => { video.currentTime = 2.7; }")
    assert wait_for_media(page, "seeked", 2)[:2] == pytest.approx([2.7, 0], abs=0.1)


def test_looking_elsewhere_ends_the_loop(visit):
    """Catches a player that carries people back from where they wanted to look."""
    page = visit().page
    ask(page, "something blue")
    page.locator(".card .main").first.click()
    wait_for_media(page, "playing")
    page.locator("#player video").evaluate("(video) => { video.currentTime = 10; }")
    expect(page.get_by_role("button", name="Loop")).to_have_attribute("aria-pressed", "false")
    page.wait_for_function("() => document.querySelector('#player video').currentTime > 10.2")


def test_the_timeline_shows_and_plays_the_other_moments(visit):
    """Catches a timeline of another video or query, and moments that do not play."""
    page = visit().page
    ask(page, "something blue")
    page.locator(".card .main").first.click()
    moments = page.get_by_role("list", name="Best moments of this video").get_by_role("button")
    expect(moments.first).to_have_text("0:04–0:08")
    expect(moments.first).to_have_attribute("aria-current", "true")
    wait_for_media(page, "playing")
    moments.filter(has_text="0:08–0:12").click()
    page.wait_for_function("() => document.querySelector('#player video').currentTime >= 8")
    track = page.locator("#player .track")
    box = track.bounding_box()
    assert box is not None
    track.click(position={"x": box["width"] * 0.05, "y": 20})  # the first second: yellow
    page.wait_for_function("() => document.querySelector('#player video').currentTime < 2")
    page.wait_for_url("**open=*-000000000-000004000")
    page.wait_for_function("() => !document.querySelector('#player video').seeking")
    assert is_color(page.locator("#player video").evaluate(PIXEL), "yellow")
    page.keyboard.press("Escape")
    expect(page.locator(".card .main").first).to_be_focused()


def test_more_like_this(visit):
    """Catches similar search by another segment than the one that was chosen."""
    page = visit().page
    ask(page, "green")
    name, when = first(page)
    page.locator(".card").first.hover()
    page.locator(".card").first.get_by_role("button", name="More like this").click()
    expect(page.locator("#terms .chip bdi")).to_have_text(name)
    expect(page.locator(".card .score").first).to_have_text("1.000")
    assert first(page) == (name, when)
    assert set(names(page)[:5]) <= {"green.mp4", "long.mp4"}


def test_words_can_be_weighed_and_taken_away(visit):
    """Catches weights that are shown and not sent."""
    page = visit().page
    ask(page, "purple")
    assert first(page)[0] == HTML_NAME
    page.get_by_role("button", name="Add term").click()
    expect(page.get_by_label("Weight of purple")).to_have_value("1")
    assert first(page)[0] == HTML_NAME
    page.get_by_label("Weight of purple").select_option("without")
    page.wait_for_url("**term=-1*")
    expect(page.locator(".card .name").first).not_to_have_text(HTML_NAME)
    page.get_by_role("button", name="Remove purple").click()
    expect(page.get_by_role("heading", name="Find a moment")).to_be_visible()


DROP = """([name, type, bytes, event]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, { type }));
  if (event === "drop") {
    for (const type of ["dragenter", "dragover", "drop"]) {
      document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
    }
  } else {
    document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
  }
}"""


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_an_image_is_dropped_or_pasted(visit, color_image, event):
    """Catches an image that is uploaded and not searched by."""
    page = visit().page
    page.evaluate(DROP, ["my green.png", "image/png", list(color_image("green")), event])
    expect(page.locator("#terms .chip bdi")).to_have_text("my green.png")
    expect(page.locator(".card:not(.waiting)").first).to_be_visible()
    assert set(names(page)[:2]) <= {"green.mp4", "long.mp4"}
    expect(page.locator("#drop")).to_be_hidden()
    assert page.locator("#terms .chip img").evaluate("(image) => image.naturalWidth") == 160


def test_a_video_is_chosen(visit, videos):
    """Catches an upload of a video that is taken for something else: it has to find itself."""
    page = visit().page
    page.get_by_label("Image or video to search by").set_input_files(videos / "plain" / "red.mp4")
    expect(page.locator(".card:not(.waiting)").first).to_be_visible()
    assert first(page)[0] == "red.mp4"
    expect(page.locator(".card .score").first).to_have_text(re.compile(r"^(1\.000|0\.99\d)$"))


def test_files_that_are_neither_are_refused(visit):
    """Catches a text file that is uploaded, and a damaged image that ends in silence."""
    opened: Visit = visit()
    page = opened.page
    page.evaluate(DROP, ["notes.txt", "text/plain", [104, 105], "drop"])
    expect(page.get_by_role("alert")).to_contain_text("notes.txt: neither an image nor a video")
    opened.expected = ("Failed to load resource: the server responded with a status of 422",)
    page.evaluate(DROP, ["broken.png", "image/png", [137, 80, 78, 71, 1], "drop"])
    expect(page.get_by_role("alert")).to_contain_text("the uploaded file")
    expect(page.locator("#terms .chip")).to_have_count(0)


def test_filters_and_groups(visit, videos):
    """Catches filters that are shown and not sent, kept when they are cleared, or lost when the question changes."""
    page = visit().page
    ask(page, "white")
    assert len(set(names(page))) < len(names(page))
    page.get_by_label("Group by video").check()
    page.wait_for_url("**per_video=1*")
    expect(page.locator("#told")).to_contain_text("videos")
    assert len(set(names(page))) == len(names(page)) == 6

    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Path").fill("reels/**")
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(2)
    assert set(names(page)) == {"day.mp4", "long.mp4"}
    page.get_by_label("Shorter than").fill("60")
    page.keyboard.press("Tab")
    expect(page.locator(".card")).to_have_count(1)
    expect(page.get_by_role("button", name="Filters: 2")).to_be_visible()
    ask(page, "blue")
    assert names(page) == ["day.mp4"]
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".card")).to_have_count(6)
    page.get_by_label("Folder").select_option(str(videos))
    page.wait_for_url("**root=*")
    expect(page.locator(".card")).to_have_count(6)
    page.get_by_label("Changed after").fill("2100-01-01")
    expect(page.get_by_role("heading", name="Nothing passes the filters")).to_be_visible()


def test_words_that_were_not_sent_yet(visit):
    """Catches words that vanish because a filter was set before Enter was pressed."""
    page = visit().page
    ask(page, "red")
    page.get_by_label("What to look for").fill("something blue")
    page.get_by_label("Group by video").check()
    expect(page.locator(".card .name").first).to_have_text("day.mp4")
    assert parse_qs(urlsplit(page.url).query)["q"] == ["something blue"]


def test_a_link_to_what_is_gone(visit):
    """Catches an old link that ends in silence, or takes the results away with it."""
    opened = visit("?q=red&open=0000000000000000-000000000-000001000")
    opened.expected = ("Failed to load resource: the server responded with a status of 404",)
    page = opened.page
    expect(page.get_by_role("alert")).to_contain_text("not in this index")
    expect(page.locator(".card .name").first).to_have_text("red.mp4")
    page.wait_for_url("**?q=red")


def test_more_pages(visit):
    """Catches pages that repeat or leave out results."""
    page = visit().page
    ask(page, "white")
    expect(page.locator(".card")).to_have_count(24)
    page.get_by_role("button", name="Show more").click()
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    ids = page.locator(".card").evaluate_all("(cards) => cards.map((card) => card.dataset.segment)")
    assert len(set(ids)) == len(ids) > 24
    scores = [float(score) for score in page.locator(".card .score").all_text_contents()]
    assert scores == sorted(scores, reverse=True)
    assert page.evaluate("document.activeElement.closest('.card').dataset.segment") == ids[24]


def test_the_address_holds_the_question(visit):
    """Catches a link that opens something else than what was looked at, and a broken back or forward button."""
    page = visit().page
    ask(page, "something blue")
    page.locator(".card .main").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    link = page.url
    assert parse_qs(urlsplit(link).query)["q"] == ["something blue"]
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    ask(page, "red")
    assert first(page)[0] == "red.mp4"

    page.go_back()
    expect(page.get_by_label("What to look for")).to_have_value("something blue")
    expect(page.locator(".card .name").first).to_have_text("day.mp4")
    page.go_forward()
    expect(page.get_by_label("What to look for")).to_have_value("red")
    expect(page.locator(".card .name").first).to_have_text("red.mp4")

    other = visit(link).page  # nobody has touched this page, so it may not play by itself; it shows the right picture
    expect(other.get_by_role("dialog")).to_contain_text("0:04–0:08")
    expect(other.get_by_label("What to look for")).to_have_value("something blue")
    assert wait_for_media(other, "seeked")[0] == pytest.approx(4, abs=0.1)
    other.keyboard.press("Escape")
    expect(other.locator(".card .name").first).to_have_text("day.mp4")


def test_a_format_that_browsers_cannot_play(visit):
    """Catches a video of another format that stays black."""
    page = visit().page
    ask(page, "white")
    page.get_by_role("button", name="white.avi").first.click()
    wait_for_media(page, "playing")
    assert is_color(page.locator("#player video").evaluate(PIXEL), "white")
