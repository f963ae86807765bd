"""An index on an object store: a real S3 server of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import clipvip
from clipvip.errors import SearchIndexError
from clipvip.search import Library
from helpers_index import OPTIONS, assert_same, write_library
from helpers_model import write_model


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
    server.stop()


def test_an_index_on_an_object_store(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches what works in folders only: locks, renames, listing; and an interrupted run that cannot go on."""
    encoder = clipvip.load(write_model(tmp_path / "model"), device="cpu")
    videos = write_library(tmp_path / "videos", 5)
    there, here = f"{bucket}/some/index", tmp_path / "index"
    assert not Library(there).exists
    monkeypatch.setattr("clipvip.search.adding.COMMIT_FILES", 1)
    monkeypatch.setattr("clipvip.search.ingest.BATCH_SIZE", 1)

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
