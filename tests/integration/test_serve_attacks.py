"""What a hostile client tries: none gets a file that is not the library's, a stack trace, or the server down."""

from __future__ import annotations

import io
import os
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import clipvip
from clipvip.search import Library
from clipvip.serve.config import ServeConfig
from clipvip.serve.decoding import MAX_PIXELS
from clipvip.serve.uploads import MAX_UPLOADS
from helpers_serve import first, served, write_library
from helpers_video import write_video

OUTSIDE = [
    "../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd",
    "..\\..\\windows\\win.ini",
    "/etc/passwd",
    "//etc/passwd",
    "file:///etc/passwd",
    "\x00",
    "%00",
    "short.mp4%00.jpg",
    "~root",
    "' OR '1'='1",
    "x'; DROP TABLE segments; --",
    "a" * 5000,
    "🎞" * 50,
    "-",
]
PATHS = [
    "/api/videos/{}",
    "/api/videos/{}/stream",
    "/api/videos/{}/hits?q=a",
    "/api/segments/{}/thumbnail",
    "/api/segments/{}/strip",
    "/api/jobs/{}",
    "/api/jobs/{}/events",
    "/{}",
]
PARAMETERS = [
    "q",
    "path",
    "root",
    "similar_to",
    "after",
    "before",
    "k",
    "offset",
    "min_duration_s",
    "false_alarm",
    "rescore",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_library(tmp_path_factory.mktemp("attacked library"))


@pytest.fixture(scope="module")
def client(place):
    with served(place, upload_bytes=2 << 20) as client:
        yield client


def is_harmless(answer, place) -> bool:
    """Whether it is an answer as documented: no failure of the server, nothing of other files, no foreign path."""
    text = answer.text.replace(str(place / "videos"), "")
    leaks = any(word in text for word in ("root:x:", "Traceback", "site-packages", str(place), "clipvip-upload"))
    return answer.status_code < 500 and not leaks


@pytest.mark.parametrize("path", PATHS)
def test_traversal_in_paths(client, place, path):
    """Catches an id that is put together into a path, or into SQL."""
    for hostile in OUTSIDE:
        with_parts = client.get(path.format(hostile.replace("\x00", "%00")))
        assert is_harmless(with_parts, place), (hostile, with_parts.text)
        assert with_parts.status_code in (400, 404, 405, 414, 422), (hostile, with_parts.status_code)


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_traversal_in_parameters(client, place, parameter):
    """Catches a filter that reads files, breaks out of its quotes, or fails on what it cannot read."""
    for hostile in OUTSIDE:
        by_address = client.get("/api/search", params={"q": "a", parameter: hostile})
        assert is_harmless(by_address, place), (hostile, by_address.text)
        if parameter in ("path", "root"):
            by_body = client.post("/api/search", json={"terms": [{"text": "a"}], "filters": {parameter: hostile}})
            assert is_harmless(by_body, place), (hostile, by_body.text)
            for answer in (by_address, by_body):
                assert answer.status_code == 422 or answer.json()["results"] == []
    for folder in OUTSIDE:
        answer = client.post("/api/jobs", json={"dir": folder})
        assert is_harmless(answer, place)
        assert answer.status_code in (403, 422), (folder, answer.text)


def test_tables_survive(client):
    """Catches SQL that reached the database; runs after the attacks above."""
    assert client.get("/api/status").json()["videos"] == 7


def test_links_out_of_the_root(tmp_path):
    """Catches a link in the library that serves a file from elsewhere, at once or changed after indexing."""
    place = write_library(tmp_path / "library")
    secret = tmp_path / "secret.mp4"
    secret.write_bytes((place / "videos" / "short.mp4").read_bytes())
    with served(place) as client:
        video_id = first(client, path="short.mp4")["video_id"]
        segment_id = first(client, path="short.mp4")["segment_id"]
        assert client.get(f"/api/videos/{video_id}/stream").status_code == 200
        (place / "videos" / "short.mp4").unlink()
        (place / "videos" / "short.mp4").symlink_to(secret)
        for path in (f"/api/videos/{video_id}/stream", f"/api/segments/{segment_id}/strip"):
            answer = client.get(path)
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "gone"
            assert "secret" not in answer.text
        assert client.get(f"/api/videos/{video_id}").json()["there"] is False

        long = first(client, path="long.mp4")["video_id"]
        os.rename(place / "videos" / "holiday", tmp_path / "elsewhere")
        (place / "videos" / "holiday").symlink_to(tmp_path / "elsewhere")
        assert client.get(f"/api/videos/{long}/stream").status_code == 404
        job = client.post("/api/jobs", json={"dir": str(place / "videos" / "holiday")})
        assert job.status_code == 403  # it leads out of the root

        (place / "videos" / "tape.mkv").unlink()
        (place / "videos" / "tape.mkv").symlink_to("tape.mkv")  # a circle
        tape = first(client, path="tape.mkv")["video_id"]
        assert client.get(f"/api/videos/{tape}/stream").status_code == 404
        (place / "videos" / "old.avi").unlink()
        os.mkfifo(place / "videos" / "old.avi")  # opening it would hang
        old = first(client, path="old.avi")["video_id"]
        assert client.get(f"/api/videos/{old}/stream").status_code == 404


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=5-2",
        "bytes=-0",
        "bytes=--5",
        "bytes=a-b",
        "bytes=",
        "bytes=0-0,",
        "bytes=" + ",".join("0-" for _ in range(5000)),
        "bytes=" + ",".join(f"{i}-{i}" for i in range(0, 198, 2)),
        "bytes=" + "9" * 5000 + "-",
        "bytes=-" + "9" * 18,
        "items=0-5",
        "bytes=99999999999-",
        "\u00bd",
    ],
)
def test_range_abuse(client, place, asked):
    """Catches ranges that fail the server, or make it send a film a thousand times."""
    url = f"/api/videos/{first(client, path='short.mp4')['video_id']}/stream"
    size = (place / "videos" / "short.mp4").stat().st_size
    answer = client.get(url, headers={"range": asked.encode()})
    assert answer.status_code in (200, 206, 400, 416)
    assert len(answer.content) < 2 * size


def test_uploads_that_are_too_large(client, place):
    """Catches uploads that fill the disk, by their announced length or without one."""
    large = client.post("/api/uploads", files={"file": ("x.png", b"\0" * (3 << 20))})
    assert large.status_code == 413
    assert is_harmless(large, place)

    def endless():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(100):
            yield b"\0" * (1 << 16)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/api/uploads", content=endless(), headers=headers).status_code == 413
    body = client.post(
        "/api/search", content=b'{"terms": [' + b" " * (2 << 20), headers={"content-type": "application/json"}
    )
    assert body.status_code == 413


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n\r\n"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\na\r\n--x--\r\n',
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\na',
        ),
        ("multipart/form-data; boundary=x", b"\xff" * 1000),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--x--"),
        ("multipart/form-data; boundary=x; charset=nonsense", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A: b\r\n" * 3000 + b"\r\n\r\n--x--\r\n"),
        ("application/json", b'{"file": "/etc/passwd"}'),
        ("application/x-www-form-urlencoded", b"file=/etc/passwd"),
        ("", b"file"),
    ],
)
def test_malformed_multipart(client, place, content_type, body):
    """Catches a parser's error that becomes the server's."""
    answer = client.post("/api/uploads", content=body, headers={"content-type": content_type})
    assert answer.status_code in (400, 415, 422), answer.text
    assert is_harmless(answer, place)


def png_bomb(side: int) -> bytes:
    """A picture of `side` x `side` black pixels in few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer, row = zlib.compressobj(9), b"\0" * (side + 1)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def upload(client, content: bytes, name: str = "x.png"):
    return client.post("/api/uploads", files={"file": (name, content)})


def test_image_bombs(client, place):
    """Catches a few kilobytes that take all memory."""
    for side in (7_000, 20_000):
        bomb = png_bomb(side)
        assert len(bomb) < 2 << 20
        assert side**2 > MAX_PIXELS
        answer = upload(client, bomb)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "undecodable")
        assert "pixels" in answer.json()["error"]["message"]
        assert is_harmless(answer, place)
    good = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(good, "PNG")
    assert upload(client, good.getvalue()).status_code == 200


def test_video_bombs(client, place, tmp_path, monkeypatch):
    """Catches a film that is decoded for ever, or that takes the server's own memory."""
    from clipvip.serve import uploads

    worker, short = client.app.state.services.uploads._worker, (place / "videos" / "short.mp4").read_bytes()
    huge = write_video(tmp_path / "huge.mp4", 5, width=4096, height=2304, still=True, grain=192, preset="ultrafast")
    worker._kill()
    monkeypatch.setattr(worker, "_memory_bytes", 1000 << 20)
    answer = upload(client, huge.read_bytes(), "huge.mp4")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "undecodable"), answer.text
    assert "bytes of memory" in answer.json()["error"]["message"]
    assert is_harmless(answer, place)
    assert upload(client, short).status_code == 200

    slow = write_video(tmp_path / "slow.ts", 500, width=320, height=240, still=True, grain=20)
    monkeypatch.setattr(uploads, "TIME_S", 0.01)
    answer = upload(client, slow.read_bytes(), "slow.ts")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "undecodable"), answer.text
    assert "silent" in answer.json()["error"]["message"]
    monkeypatch.undo()
    assert upload(client, short).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a" + b"\0" * 20,
        b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
        b"RIFF\0\0\0\0AVI " + b"\xff" * 500,
        b"\0\0\0\x18ftypmp42" + b"\0" * 500,
        b"\x1a\x45\xdf\xa3" + b"\xff" * 500,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) run\n",
        b"II*\0\x08\0\0\0" + b"\xff" * 200,
    ],
    ids=lambda content: content[:8].hex() or "empty",
)
def test_uploads_that_are_no_media(client, place, content):
    """Catches playlists and scripts that are followed, and damaged headers that fail the server."""
    answer = upload(client, content)
    assert answer.status_code == 422, answer.text
    assert is_harmless(answer, place)


def test_errors_name_no_folder(client, place, monkeypatch):
    """Catches a message with a path, or a bug, told to whoever asks."""

    def fail(*_):
        raise RuntimeError(f"{place}/secret")

    monkeypatch.setattr(type(client.app.state.services.live.current.library), "search", fail)
    answer = client.get("/api/search?q=a")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.text
    harmless = client.get("/api/status").headers
    for name in ("content-security-policy", "x-content-type-options", "cross-origin-opener-policy", "cache-control"):
        assert answer.headers[name] == harmless[name]  # a failure is no way past the guard


def test_too_much_at_once_is_refused(place):
    """Catches a queue without end: each request is answered, or told to come again."""
    with served(place, max_waiting=0) as client:
        answer = client.get("/api/search?q=a")
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
    assert ServeConfig().max_waiting > 0


def test_the_queue_of_the_model_has_an_end(client, monkeypatch):
    """Catches searches and uploads without number that wait for a model which is busy."""
    services = client.app.state.services
    monkeypatch.setattr(services, "config", replace(services.config, max_waiting=2))
    encode, busy, go = services.model.encoder.encode_texts, threading.Event(), threading.Event()

    def slowly(texts, **options):
        busy.set()
        assert go.wait(60)
        return encode(texts, **options)

    monkeypatch.setattr(services.model.encoder, "encode_texts", slowly)

    def ask(text: str) -> int:
        return client.get("/api/search", params={"q": text}).status_code

    with ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(ask, "under way")]
        assert busy.wait(60)
        answers += [threads.submit(ask, f"waiting {number}") for number in range(2)]
        while services.model.num_waiting < 2:
            pass
        assert ask("too much") == 503
        assert upload(client, png_bomb(8)).status_code == 503
        go.set()
        assert [answer.result() for answer in answers] == [200, 200, 200]
    assert ask("again") == 200


def test_uploads_are_refused_before_they_are_read(client):
    """Catches a disk that fills with uploads which nobody has time for."""
    uploads, read = client.app.state.services.uploads, []

    def body():
        read.append("the first bytes")
        yield b"--x\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    with ExitStack() as places:
        for number in range(MAX_UPLOADS):
            places.enter_context(uploads.place(f"client {number}"))
        answer = client.post("/api/uploads", content=body(), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"], read) == (503, "busy", [])
    assert client.post("/api/uploads", content=body(), headers=headers).status_code == 422
    assert upload(client, png_bomb(8)).status_code == 200


def test_new_roots_only_when_allowed(tmp_path, place):
    """Catches an option that is ignored, and folder names that fail the server."""
    with served(place, allow_new_roots=True) as client:
        for hostile in OUTSIDE:
            answer = client.post("/api/jobs", json={"dir": hostile})
            assert answer.status_code in (404, 422), (hostile, answer.text)
        job = client.post("/api/jobs", json={"dir": str(tmp_path)})
        assert job.status_code == 201
        assert client.delete(f"/api/jobs/{job.json()['job_id']}").json()["state"] in ("cancelled", "failed")


def test_a_link_that_is_swapped_in_serves_nothing_from_outside(tmp_path):
    """Catches a file that is checked by its name and opened again by it: something else may be there by then."""
    place = write_library(tmp_path / "library")
    secret = write_video(tmp_path / "secret.mp4", 12, grain=16)
    video = place / "videos" / "short.mp4"
    inside, outside = video.read_bytes(), secret.read_bytes()
    kept, link = tmp_path / "kept.mp4", tmp_path / "link.mp4"
    kept.write_bytes(inside)
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            link.symlink_to(secret)
            os.replace(link, video)
            link.hardlink_to(kept)
            os.replace(link, video)

    with served(place) as client:
        row = first(client, path="short.mp4")
        folder = row["video_id"]
        swapper = threading.Thread(target=swap)
        swapper.start()
        try:
            answers = [client.get(f"/api/videos/{folder}/stream?transcode=never") for _ in range(300)]
            strips = [client.get(f"/api/segments/{row['segment_id']}/strip") for _ in range(30)]
        finally:
            stop.set()
            swapper.join()
        own = {client.get(f"/api/segments/{row['segment_id']}/strip").content}
    assert {answer.status_code for answer in answers} <= {200, 404}
    assert {answer.content for answer in answers if answer.status_code == 200} <= {inside}
    assert sum(answer.status_code == 200 for answer in answers) > 10
    assert outside not in {answer.content for answer in answers}
    assert {strip.content for strip in strips if strip.status_code == 200} <= own


def test_a_link_out_of_the_library_has_no_thumbnail(tmp_path):
    """Catches the picture of a file elsewhere that was indexed by way of a link."""
    place = write_library(tmp_path / "library")
    secret = write_video(tmp_path / "secret.mp4", 12, grain=16)
    (place / "videos" / "linked.mp4").symlink_to(secret)
    Library(place / "index", clipvip.load(place / "model", device="cpu")).add(place / "videos")
    with served(place) as client:
        row = first(client, path="linked.mp4")
        for path in (f"/api/segments/{row['segment_id']}/thumbnail", f"/api/segments/{row['segment_id']}/strip"):
            assert client.get(path).status_code == 404
        other = first(client, path="short.mp4")["segment_id"]
        assert client.get(f"/api/segments/{other}/thumbnail").status_code == 200


def test_a_job_does_not_follow_links_out_of_its_folder(tmp_path):
    """Catches a job that reads what a link in the library leads to, among it a folder that became a link meanwhile."""
    place = write_library(tmp_path / "library")
    (tmp_path / "elsewhere").mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "elsewhere" / name, 12, grain=16)
    (place / "videos" / "linked.mp4").symlink_to(tmp_path / "elsewhere" / "a.mp4")
    (place / "videos" / "own.mp4").symlink_to("short.mp4")
    with served(place) as client:
        job = client.post("/api/jobs", json={"dir": str(place / "videos")}).json()
        while (job := client.get(f"/api/jobs/{job['job_id']}").json())["state"] == "running":
            time.sleep(0.1)
        assert job["state"] == "done", job
        assert [(row["path"], row["reason"]) for row in job["skipped"]] == [
            (str(place / "videos" / "linked.mp4"), "no file below its folder")
        ]
        assert job["summary"]["copied"] == 1  # a link within the folder is a file of it
