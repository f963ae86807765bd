"""The page while the server takes its time: what comes late, and what people do meanwhile."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from helpers_browser import ask, first, hold

pytestmark = pytest.mark.browser


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
