"""A small library with an index, and a server for it: in this process, or as a person starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from starlette.testclient import TestClient

import clipvip
from clipvip.search import Library
from clipvip.serve.app import create_app
from clipvip.serve.config import ServeConfig
from clipvip.serve.indexing import Task
from helpers_model import write_model
from helpers_video import write_video

HOSTILE = "<img src=x onerror=alert(1)>.mp4"


def write_library(place: Path) -> Path:
    """`place` with a model, an index and videos: two that browsers play, three that they do not, and a hostile name."""
    videos = place / "videos"
    (videos / "holiday").mkdir(parents=True)
    write_video(videos / "short.mp4", 12, grain=4)
    write_video(videos / "holiday" / "long.mp4", 300, grain=8)  # 30 s: four windows
    write_video(videos / "clip.webm", 12, codec="libvpx-vp9", grain=6)
    write_video(videos / "new.mp4", 12, codec="libx265", grain=12)
    write_video(videos / "old.avi", 12, codec="mpeg4", grain=16)
    write_video(videos / "tape.mkv", 12, grain=24)
    write_video(videos / HOSTILE, 8, grain=32)
    write_model(place / "model")
    Library(place / "index", clipvip.load(place / "model", device="cpu")).add(videos)
    return place


@contextmanager
def served(place: Path, **fields) -> Iterator[TestClient]:
    """A client of a server in this process, for the library at `place`."""
    encoder = clipvip.load(place / "model", device="cpu")
    task = Task(str(place / "index"), str(place / "model"), "cpu", "auto", None)
    config = ServeConfig(**{"cache": place / "cache", "requests_per_s": 0, **fields})
    with TestClient(
        create_app(task, encoder, config), "http://localhost:8000", raise_server_exceptions=False
    ) as client:
        yield client


@contextmanager
def started(place: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    """`clipvip serve` on a free port, and a client of it. The process is killed in the end, if it still runs."""
    arguments = ["--index", str(place / "index"), "--cache", str(place / "cache"), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "clipvip", "serve", *arguments, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving "), (process.communicate(), line)
        url = next(word for word in line.split() if word.startswith("http"))
        with httpx2.Client(base_url=url, timeout=60) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


def first(client: TestClient | httpx2.Client, **params) -> dict:
    """The best answer to a search."""
    answer = client.get("/api/search", params={"q": "a red circle", **params})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]
