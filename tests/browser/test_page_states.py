"""Every state of the page: a picture of each is kept, and none has a serious fault for those who use it otherwise."""

from __future__ import annotations

import pytest
from gallery import walk

from helpers_browser import accessibility_issues

pytestmark = pytest.mark.browser


def test_every_state_is_accessible(browser, server, screenshots):
    """Catches low contrast, fields without a label and the like, in light, dark and on a phone."""
    issues = []

    def look(page, name):
        page.screenshot(path=screenshots / f"{name}.png")
        issues.extend(f"{name}: {issue}" for issue in accessibility_issues(page))

    walk(browser, server.url, "something blue", look)
    assert issues == []
