"""Indexing, killed often; very many files; a very long one."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import av
import pytest

import clipvip
from clipvip.jobs import Worker
from clipvip.search import Library
from clipvip.video import Scales, VideoInfo, stream_segments
from helpers_index import assert_kills_cost_nothing, write_library
from helpers_model import write_model
from helpers_video import write_video

NUM_FILES = 10_000
HOURS = 3

pytestmark = pytest.mark.long


def test_thirty_kills_cost_nothing(tmp_path: Path) -> None:
    """Catches rows lost or doubled by a kill at a rare moment."""
    model = write_model(tmp_path / "model")
    assert_kills_cost_nothing(write_library(tmp_path / "videos"), model, tmp_path, num_kills=30, seed=1)


def test_ten_thousand_tiny_files(tmp_path: Path) -> None:
    """Catches a run that slows down with every file, files lost between batches, and a slow second look."""
    folder = tmp_path / "videos"
    folder.mkdir()
    base = write_video(tmp_path / "base.mp4", 3).read_bytes()
    for number in range(NUM_FILES):
        content = base + struct.pack(">I4sI", 12, b"free", number)  # an empty box: another file with the same pictures
        below = folder / f"{number % 100:02d}"
        below.mkdir(exist_ok=True)
        (below / f"{number}.mp4").write_bytes(b"no video" if number % 1000 == 999 else content)
    encoder = clipvip.load(write_model(tmp_path / "model"), device="cpu")
    summary = Library(tmp_path / "index", encoder).add(folder)
    bad = NUM_FILES // 1000
    assert (summary.videos, summary.segments, len(summary.skipped)) == (NUM_FILES - bad, NUM_FILES - bad, bad)
    library = Library(tmp_path / "index", encoder)
    assert library.add().unchanged == NUM_FILES - bad
    assert library.verify().problems == []
    assert len(library.search("a dog", 1000, merge=False)) == 1000


def write_film(path: Path, seconds: int) -> Path:
    """A minute, over and over: packets that are copied cost no encoding."""
    minute = write_video(path.with_name("minute.mp4"), 600, grain=8)
    with av.open(str(minute)) as source, av.open(str(path), "w") as film:
        copy = film.add_stream_from_template(source.streams.video[0])
        length = int(60 / source.streams.video[0].time_base)
        for turn in range(seconds // 60):
            source.seek(0)
            for packet in source.demux(video=0):
                if packet.size:
                    packet.pts, packet.dts = packet.pts + turn * length, packet.dts + turn * length
                    packet.stream = copy
                    film.mux(packet)
    return path


def peak_mib(path: Path) -> float:
    """Of a process that reads all segments of a file."""
    for part in stream_segments(path, Scales.of([12.0, 4.0]), size=224):
        assert isinstance(part, VideoInfo) or part.frames.shape[0] == 12
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_a_film_of_three_hours(tmp_path: Path) -> None:
    """Catches memory that grows with the length of a file, a pass for every segment, and times that drift."""
    film = write_film(tmp_path / "film.mp4", HOURS * 3600)
    with Worker() as worker:
        short = worker.call(peak_mib, write_film(tmp_path / "short.mp4", 180), timeout_s=600)
    with Worker() as worker:
        assert worker.call(peak_mib, film, timeout_s=3600) < short + 64
    encoder = clipvip.load(write_model(tmp_path / "model"), device="cpu")
    library = Library(tmp_path / "index", encoder, windows_s=12.0)
    summary = library.add(film)
    assert (summary.videos, summary.segments) == (1, HOURS * 600 - 1)
    assert summary.hours == pytest.approx(HOURS, abs=1e-4)
    for hit in library.search("a dog", 3, merge=False):
        [vector] = encoder.encode_videos([(film, hit.start_s, hit.end_s)])
        assert float(vector @ encoder.encode_texts(["a dog"])[0]) == pytest.approx(hit.score, abs=1e-5)
