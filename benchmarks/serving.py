"""Many users at one server: latency, errors and memory of `clipvip serve` over loopback.

    python benchmarks/serving.py --model runs/demo/model

Makes an index of synthetic segments (unit vectors around embeddings of texts), starts the server as a person would,
and lets `--users` clients ask `--queries` different texts a round, each as soon as its last answer is there. They run
on the same machine and take their share of it. No text is asked twice, so nothing comes from the cache of texts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np

import clipvip
from clipvip.encode import Encoder
from clipvip.jobs import usable_cpus
from clipvip.search.index.records import Changes, EncodedVideo, VideoFile, Write
from clipvip.search.index.schema import Settings
from clipvip.search.index.store import Store

SEGMENTS_A_VIDEO = 20
VIDEOS_A_COMMIT = 1000
COLORS = ("red", "green", "blue", "yellow", "white", "black", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
ACTIONS = ("grows", "shrinks", "jumps", "falls", "turns", "appears", "leaves", "goes dark")
PLACES = ("on the grass", "at night", "in the desert", "on the street", "in the snow", "under water", "in a room")


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--queries", type=int, default=2000, help="a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--index", type=Path, help="keep the index here (default: a temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        index = given.index or Path(temporary, "index")
        if not Store.exists(str(index)):
            make_index(index, given.model, given.segments)
        with serving(index, given.model) as (process, url):
            asyncio.run(ask(url, queries(8, -1), 4))  # the first answers of a process are slower than those to come
            rounds = []
            for number in range(given.rounds):
                latencies_ms, errors, seconds = asyncio.run(ask(url, queries(given.queries, number), given.users))
                rounds.append(
                    {
                        "p50_ms": round(float(np.percentile(latencies_ms, 50)), 1),
                        "p95_ms": round(float(np.percentile(latencies_ms, 95)), 1),
                        "max_ms": round(float(max(latencies_ms)), 1),
                        "queries_per_s": round(len(latencies_ms) / seconds, 1),
                        "errors": errors,
                        "server_mib": resident_mib(process.pid),
                    }
                )
    sizes = {"segments": given.segments, "users": given.users, "queries": given.queries, "cores": usable_cpus()}
    print(json.dumps({**sizes, "rounds": rounds}, indent=1))


def queries(count: int, number: int) -> list[str]:
    """Different texts, and others for each round."""
    words = itertools.product(COLORS, SHAPES, ACTIONS, PLACES)
    return [f"a {color} {shape} {action} {place} {number}" for color, shape, action, place in words][:count]


def make_index(index: Path, model: str, num_segments: int) -> None:
    """An index of this many segments, as if of films of `SEGMENTS_A_VIDEO` windows each."""
    encoder: Encoder = clipvip.load(model, device="cpu")
    centres = encoder.encode_texts(queries(2000, -2))
    settings = Settings(os.path.abspath(model), encoder.fingerprint, encoder.embedding_size, (12.0,), (6.0,))
    store = Store.create(str(index), settings)
    store.register(["/films"])
    rng = np.random.default_rng(0)
    num_videos = -(-num_segments // SEGMENTS_A_VIDEO)
    for start in range(0, num_videos, VIDEOS_A_COMMIT):
        numbers = range(start, min(start + VIDEOS_A_COMMIT, num_videos))
        store.apply(Changes([Write(video(number, centres, rng)) for number in numbers]))
    store.tidy()


def video(number: int, centres: np.ndarray, rng: np.random.Generator) -> EncodedVideo:
    """A film whose segments are about like things."""
    n, size = SEGMENTS_A_VIDEO, centres.shape[1]
    vectors = centres[number % len(centres)] + rng.normal(size=(n, size)).astype(np.float32) / np.sqrt(size)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    segments = [(6.0 * i, 6.0 * i + 12.0) for i in range(n)]
    file = VideoFile("/films", f"{number % 100:02d}/{number:06d}.mp4", 1_000_000, number)
    return EncodedVideo(file, f"{number:064x}", 6.0 * n + 6.0, 640, 360, segments, vectors, [None] * n)


@contextmanager
def serving(index: Path, model: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`clipvip serve` on a free port, without a limit of requests: all users come from one address."""
    command = ["serve", "--index", str(index), "--model", model, "--port", "0", "--rate", "0", "--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-m", "clipvip", *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield process, next(word for word in line.split() if word.startswith("http"))
    finally:
        process.terminate()
        process.wait()


async def ask(url: str, texts: list[str], num_users: int) -> tuple[list[float], int, float]:
    """Milliseconds of each answer, how many were none, and the seconds of all."""
    waiting, latencies_ms, errors = iter(texts), [], 0

    async def user() -> None:
        nonlocal errors
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            for text in waiting:
                started = time.perf_counter()
                answer = await client.get("/api/search", params={"q": text, "k": 20})
                latencies_ms.append((time.perf_counter() - started) * 1000)
                errors += answer.status_code != 200 or len(answer.json()["results"]) != 20

    started = time.perf_counter()
    await asyncio.gather(*(user() for _ in range(num_users)))
    return latencies_ms, errors, time.perf_counter() - started


def resident_mib(pid: int) -> int:
    """Memory of a process, without files that it has mapped."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
