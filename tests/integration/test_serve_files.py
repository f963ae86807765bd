"""Odd files in the library of a server: each is played, or refused with a reason; none is a failure of the server."""

from __future__ import annotations

import base64
import io
import shutil
import time

import numpy as np
import pytest
from PIL import Image

import clipvip
from clipvip.search import Library
from clipvip.video import probe
from helpers_model import write_model
from helpers_serve import served
from helpers_video import write_video

HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAVZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABegABAAAAAAAAAMYAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA1mlwcnAAAAC3aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoBAgYWW6kkprm4CGgwIAAAMAMgAAAwACEGIAAQAHRAHBcrAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAACAAAAAYAAAABBwaXhpAAAAAAMICAgAAAAXaXBtYQAAAAAAAAABAAEEgQIDBAAAAM5tZGF0AAAAwigBrwngITl1X//8gj///GI3IfwKIHEM3EPKP//aV2K+wmY/8aug+JN1LMNJEldYARSn0unfO6O8zIy94BwPdDxfNbvfLhD+x/YJJ7TV2W07D1FZpDfvaHeOnnIQXVF48EjS9dzywFI1PTJYID80OVxecx9BgICZPmqdsAkJXKqq1cAfJV74yPldTDvd6Rf1jCw6Z9/nqhSBAzoZCoxlNrNxwx4QAAAvuUz1l//5mY/j4mof/z7oR9x3/5SwzgaqFQoU"
)
"""A picture of 128 x 96 pixels, its top left quarter red."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("odd files")
    videos = place / "videos"
    videos.mkdir()
    write_video(videos / "plain é.mp4", 20, grain=8)
    parts = [write_video(place / f"{number}.ts", 25, rate=25, grain=8 + number).read_bytes() for number in (0, 1)]
    (videos / "joined.ts").write_bytes(b"".join(parts))
    write_video(videos / "strip.mkv", 10, codec="ffv1", width=8192, height=16, grain=8)
    write_video(videos / "tiny.gif", 3, width=1, height=1, codec="gif", pix_fmt="rgb8")
    whole = write_video(place / "whole.mp4", 100, faststart=True, grain=8).read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    write_model(place / "model")
    Library(place / "index", clipvip.load(place / "model", device="cpu")).add(videos)
    return place


@pytest.fixture(scope="module")
def client(place):
    with served(place) as client:
        yield client


@pytest.fixture(scope="module")
def rows(client):
    found = client.get("/api/search", params={"q": "a red circle", "k": 20}).json()["results"]
    return {row["path"]: row for row in found}


def test_joined_recordings_play(client, rows):
    """Catches a 500 where time runs backwards, and half of the recording."""
    answer = client.get(f"/api/videos/{rows['joined.ts']['video_id']}/stream")
    assert answer.status_code == 200, answer.text
    assert probe(answer.content).num_frames == 50
    assert client.get(f"/api/videos/{rows['joined.ts']['video_id']}").json()["duration_s"] == pytest.approx(2, abs=0.1)


def test_a_wide_strip_has_a_film_strip(client, rows):
    """Catches "no room for a copy" said of a picture that JPEG cannot hold."""
    answer = client.get(f"/api/segments/{rows['strip.mkv']['segment_id']}/strip")
    assert answer.status_code == 200, answer.text
    assert Image.open(io.BytesIO(answer.content)).size == (6 * 960, 2)
    assert client.get(f"/api/segments/{rows['strip.mkv']['segment_id']}/thumbnail").status_code == 200


def test_a_damaged_video_plays_as_far_as_it_goes(client, rows):
    """Catches a video that was found and cannot be looked at."""
    assert client.get(f"/api/segments/{rows['cut.mp4']['segment_id']}/strip").status_code == 200
    assert client.get(f"/api/videos/{rows['cut.mp4']['video_id']}/stream").status_code == 200


def test_what_cannot_be_encoded_is_the_files_fault(client, rows, place):
    """Catches a 500, or a full disk blamed, where a picture cannot be made H.264."""
    assert client.get(f"/api/videos/{rows['strip.mkv']['video_id']}/stream").status_code == 200
    answer = client.get(f"/api/videos/{rows['tiny.gif']['video_id']}/stream")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "undecodable"), answer.text


def test_a_client_that_has_the_file_gets_304(client, rows):
    """Catches a film sent again to a browser that has it, and one that is saved under the name of its address."""
    url = f"/api/videos/{rows['plain é.mp4']['video_id']}/stream"
    whole = client.get(url)
    assert whole.headers["content-disposition"] == "inline; filename*=utf-8''plain%20%C3%A9.mp4"
    tag = whole.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        for request in (client.get, client.head):
            same = request(url, headers={"if-none-match": known, "range": "bytes=0-9"})
            assert (same.status_code, same.content) == (304, b""), known
            assert same.headers["etag"] == tag
    assert client.get(url, headers={"if-none-match": '"other"'}).status_code == 200
    url = f"/api/videos/{rows['joined.ts']['video_id']}/stream"  # a copy
    part = client.get(url, headers={"range": "bytes=0-0"})
    assert part.headers["content-disposition"] == 'inline; filename="joined.mp4"'
    time.sleep(0.05)
    assert client.get(url, headers={"if-none-match": part.headers["etag"]}).status_code == 304
    again = client.get(url, headers={"range": "bytes=0-9", "if-range": part.headers["etag"]})
    assert (again.status_code, len(again.content)) == (206, 10)


def test_a_heic_is_searched_by_as_a_whole(client, place):
    """Catches an iPhone's picture of which one tile is taken, and one that counts as a video."""
    told = client.post("/api/uploads", files={"file": ("IMG_1.HEIC", HEIC)}).json()
    assert told["kind"] == "image"
    same = np.zeros((96, 128, 3), np.uint8)
    same[:48, :64] = (220, 30, 30)
    for name, format in (("IMG_1.png", "PNG"), ("IMG_1.avif", "AVIF")):
        Image.fromarray(same).save(place / name, format)
        other = client.post("/api/uploads", files={"file": (name, (place / name).read_bytes())}).json()
        assert other["kind"] == "image"
        scores = [
            [row["score"] for row in answer.json()["results"]]
            for upload in (told, other)
            for answer in [client.post("/api/search", json={"terms": [{"upload_id": upload["upload_id"]}], "k": 4})]
        ]
        np.testing.assert_allclose(scores[0], scores[1], atol=0.02)


def test_a_heic_that_cannot_be_read_is_one_clear_sentence(client):
    """Catches "no picture or video" for a picture whose format is known."""
    answer = client.post("/api/uploads", files={"file": ("IMG_2.HEIC", HEIC[:200])})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "undecodable")
    assert "HEIC" in answer.text or "damaged" in answer.text


def test_a_file_that_cannot_be_read_now_is_no_full_disk(client, rows, place):
    """Catches every trouble with a file blamed on the room for copies."""
    source = place / "videos" / "joined.ts"
    kept = place / "kept.ts"
    shutil.move(source, kept)
    try:
        source.mkdir()
        answer = client.get(f"/api/segments/{rows['joined.ts']['segment_id']}/strip")
        assert answer.status_code == 404
    finally:
        source.rmdir()
        shutil.move(kept, source)
