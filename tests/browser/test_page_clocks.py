"""What plays is what was found, whatever clock a file has."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from clipvip.search import Library
from helpers_browser import PIXEL, Server, Visit, ask, is_color, wait_for_media
from helpers_colors import color_picture, write_color_model

pytestmark = pytest.mark.browser
RATE = 48_000


def write_late_video(path: Path, *, late_s: int, codec: str, audio: str) -> Path:
    """Red for 4 s, then blue for 4; sound from `late_s` before the first picture on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        sound = container.add_stream(audio, rate=RATE)
        sound.layout = "stereo"
        for i in range(80):
            frame = av.VideoFrame.from_ndarray(color_picture("red" if i < 40 else "blue", i), format="rgb24")
            frame.pts, frame.time_base = i + 10 * late_s, Fraction(1, 10)
            container.mux(stream.encode(frame))
        for second in range(8 + late_s):
            tone = np.tile(np.sin(np.arange(RATE) * 0.05, dtype=np.float32) * np.float32(0.2), (2, 1))
            frame = av.AudioFrame.from_ndarray(tone, "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = RATE, second * RATE, Fraction(1, RATE)
            container.mux(sound.encode(frame))
        for each in (stream, sound):
            container.mux(each.encode(None))
    return path


def write_joined(path: Path) -> Path:
    """Two transport streams in one file: red for 4 s, and blue for 4 with a clock that starts again."""
    content = b""
    for name in ("red", "blue"):
        part = path.with_stem(name)
        with av.open(str(part), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            for i in range(40):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(color_picture(name, i), format="rgb24")))
            container.mux(stream.encode(None))
        content += part.read_bytes()
        part.unlink()
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def odd_server(tmp_path_factory):
    place = tmp_path_factory.mktemp("clocks")
    (place / "videos").mkdir()
    write_late_video(place / "videos" / "late.mp4", late_s=3, codec="libx264", audio="aac")
    write_late_video(place / "videos" / "late.webm", late_s=3, codec="libvpx-vp9", audio="libopus")
    write_late_video(place / "videos" / "plain.mp4", late_s=0, codec="libx264", audio="aac")
    write_joined(place / "videos" / "joined.ts")
    write_color_model(place / "model")
    Library(place / "index", place / "model", windows_s=4.0, strides_s=4.0).add(place / "videos")
    server = Server(place / "index", cache=place / "cache")
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("name", ["late.mp4", "late.webm", "plain.mp4", "joined.ts"])
def test_the_moment_that_was_found_is_the_one_that_plays(browser, odd_server, name):
    """Catches a page that shows the picture of 3 s earlier, since the browser counts from the first sound."""
    visit = Visit(browser, odd_server.url)
    page = visit.page
    page.goto(odd_server.url)
    ask(page, "something blue")
    page.locator(".card", has_text=name).locator(".main").first.click()
    wait_for_media(page, "playing")
    assert wait_for_media(page, "seeked")[0] == pytest.approx(4, abs=0.2)
    video = page.locator("#player video")
    for at, color in ((4.3, "blue"), (7.5, "blue"), (0.2, "red"), (3.6, "red")):
        video.evaluate("(video, at) => { video.pause(); video.currentTime = at; }", at)
        page.wait_for_function(
            "(at) => { const v = document.querySelector('#player video');"
            " return !v.seeking && Math.abs(v.currentTime - at) < 0.05 && v.readyState >= 2; }",
            arg=at,
        )
        assert is_color(video.evaluate(PIXEL), color), at
    visit.close()
