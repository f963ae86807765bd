"""An index on an object store: a real S3 server of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx2
import pytest

import clipvip
from clipvip.errors import SearchIndexError
from clipvip.search import Library
from helpers_index import OPTIONS, assert_same, contents, start, write_library
from helpers_model import write_model
from helpers_video import write_videos


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", region_name="us-east-1", endpoint_url=environment["AWS_ENDPOINT_URL"]).create_bucket(
        Bucket="videos"
    )
    yield "s3://videos"
    httpx2.post(f"{environment['AWS_ENDPOINT_URL']}/moto-api/reset")  # what it holds would outlive it in this process
    server.stop()


def test_a_server_asks_an_object_store_little_while_nothing_changes(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a server that opens the index again at every look: tens of thousands of requests per hour (B5)."""
    from werkzeug.serving import WSGIRequestHandler

    from clipvip.serve.live import Live

    requests: list[str] = []
    encoder = clipvip.load(write_model(tmp_path / "model"), device="cpu")
    library = Library(f"{bucket}/index", encoder, **OPTIONS)
    library.add(write_videos(tmp_path / "videos", 12))
    live = Live(partial(Library, library.uri, encoder))
    monkeypatch.setattr(WSGIRequestHandler, "log_request", lambda handler, *_: requests.append(handler.path))
    before = live.current
    live.renew()
    at_first = len(requests)
    live.renew()
    assert live.current is before
    assert 0 < len(requests) - at_first <= 8, requests
    write_videos(tmp_path / "videos", 12, 20)
    library.add(tmp_path / "videos")
    live.renew()
    assert len(live.current.videos) == 2


def test_an_index_on_an_object_store(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches what works in folders only: locks, renames, listing; and an interrupted run that cannot go on."""
    encoder = clipvip.load(write_model(tmp_path / "model"), device="cpu")
    videos = write_library(tmp_path / "videos", 5)
    there, here = f"{bucket}/some/index", tmp_path / "index"
    assert not Library(there).exists
    monkeypatch.setattr("clipvip.search.index.update.COMMIT_FILES", 1)
    monkeypatch.setattr("clipvip.search.index.encode_files.BATCH_SIZE", 1)

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Library(there, encoder, **OPTIONS).add(videos, on_progress=interrupt)
    resumed = Library(there, encoder).add()
    assert resumed.unchanged > 0
    local = Library(here, encoder, **OPTIONS)
    local.add(videos)
    assert_same(Library(there), local)
    hits = [(hit.segment_id, round(hit.score, 5)) for hit in Library(there, encoder).search("a red circle", 5)]
    assert hits == [(hit.segment_id, round(hit.score, 5)) for hit in local.search("a red circle", 5)]
    assert Library(there).status().num_bytes > 0

    (videos / "0.mp4").unlink()
    assert Library(there).prune().removed == local.prune().removed == 1
    assert_same(Library(there), local)


def test_a_store_that_cannot_be_reached(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches pages of errors, and a bucket that is not there taken for an empty index."""
    with pytest.raises(SearchIndexError, match="s3://nobody/index: ") as caught:
        Library("s3://nobody/index").status()
    assert "\n" not in str(caught.value)


def encode_at_once(uri: str, model: Path, videos: Path, num_writers: int) -> None:
    """Processes that index the same videos, all of them from the same moment on."""
    writers = [start(uri, model, [videos]) for _ in range(num_writers)]
    for process, pipe in writers:
        assert pipe.recv() == "done"
        process.join()


def test_writers_of_the_same_files_leave_one_copy(bucket: str, tmp_path: Path) -> None:
    """Catches segments and folders that are there twice, and commits that collide until one writer gives up."""
    model = write_model(tmp_path / "model")
    videos = write_library(tmp_path / "videos", 2)
    alone = Library(tmp_path / "alone", clipvip.load(model, device="cpu"), **OPTIONS)
    alone.add(videos)
    encode_at_once(f"{bucket}/index", model, videos, 3)
    both = Library(f"{bucket}/index")
    assert both.store.second_copies() == 0
    assert both.store.roots.to_arrow()["root"].to_pylist() == [str(videos)]
    assert_same(both, alone)


def test_second_copies_are_removed_by_a_check(bucket: str, tmp_path: Path) -> None:
    """Catches a check that takes whole videos out because an older clipvip wrote them twice."""
    encoder = clipvip.load(write_model(tmp_path / "model"), device="cpu")
    library = Library(f"{bucket}/twice", encoder, **OPTIONS)
    library.add(write_library(tmp_path / "videos", 3))
    before = contents(library)[0]
    for table in (library.store.segments, library.store.thumbnails, library.store.roots):
        table.add(table.to_arrow())
    found = Library(f"{bucket}/twice", encoder).verify()
    num_twice = len(before) + len(contents(library)[2]) + 1
    assert [(problem.what, problem.repaired) for problem in found.problems] == [
        (f"{num_twice} segments, thumbnails or folders that are there twice", "one of each is kept")
    ]
    assert (found.sound, found.removed) == (True, 0)
    assert contents(library)[0] == before
    assert Library(f"{bucket}/twice", encoder).verify().problems == []


def test_commits_that_collide_wait(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches attempts without a pause, which collide again, and more of them than anybody waits for."""
    encoder = clipvip.load(write_model(tmp_path / "model"), device="cpu")
    library = Library(f"{bucket}/colliding", encoder, **OPTIONS)
    library.add(write_library(tmp_path / "videos", 1))
    pauses: list[float] = []
    monkeypatch.setattr("clipvip.search.index.store.time.sleep", pauses.append)

    def collide() -> None:
        raise RuntimeError("Commit conflict for version 7")

    with pytest.raises(SearchIndexError, match="Commit conflict"):
        library.store.write(collide)
    assert len(pauses) == 7
    assert len({round(pause, 9) for pause in pauses}) == 7
    assert all(0 <= pause <= 0.05 * 2 ** (number + 1) for number, pause in enumerate(pauses))
