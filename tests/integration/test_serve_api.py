"""The API as a program uses it: searches, videos, uploads, index jobs."""

from __future__ import annotations

import io
import json
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

import clipvip
from clipvip.search import Library
from clipvip.serve.media import served_file
from clipvip.serve.problems import Problem
from clipvip.video import probe, read_frames
from helpers_model import write_model
from helpers_serve import HOSTILE, first, served, write_library
from helpers_video import write_video


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_library(tmp_path_factory.mktemp("served library"))


@pytest.fixture(scope="module")
def client(place):
    with served(place) as client:
        yield client


@pytest.fixture(scope="module")
def library(place):
    return Library(place / "index", clipvip.load(place / "model", device="cpu"))


def hits(answer) -> list[tuple]:
    assert answer.status_code == 200, answer.text
    return [(row["segment_id"], pytest.approx(row["score"], abs=1e-5)) for row in answer.json()["results"]]


def test_search_gives_what_the_library_gives(client, library, place):
    """Catches an API that answers other than `clipvip search`, pages that overlap, and filters that are ignored."""
    expected = [(hit.segment_id, hit.score) for hit in library.search("a red circle", k=10)]
    assert hits(client.get("/api/search", params={"q": "a red circle", "k": 10})) == expected
    assert hits(client.post("/api/search", json={"terms": [{"text": "a red circle"}], "k": 10})) == expected

    answer = client.get("/api/search", params={"q": "a red circle", "k": 3}).json()
    assert (answer["query"], answer["found"], answer["next_offset"]) == ("a red circle", True, 3)
    row = answer["results"][0]
    video = library.video(row["video_id"])
    assert (row["root"], row["path"]) == (str(place / "videos"), video.path)
    assert (row["duration_s"], row["width"], row["height"]) == (video.duration_s, 64, 48)
    assert hits(client.get("/api/search", params={"q": "a red circle", "k": 3, "offset": 3})) == expected[3:6]

    for filters in ({"path": "holiday/**"}, {"min_duration_s": 20}, {"before": "2001-01-01"}, {"path": "*.avi"}):
        same = library.search("a red circle", k=10, filters=_filters(filters))
        assert len(same) < len(expected)
        wanted = [(hit.segment_id, hit.score) for hit in same]
        assert hits(client.get("/api/search", params={"q": "a red circle", "k": 10, **filters})) == wanted
        body = {"terms": [{"text": "a red circle"}], "k": 10, "filters": filters}
        assert hits(client.post("/api/search", json=body)) == wanted
    unmerged = [(hit.segment_id, hit.score) for hit in library.search("a red circle", k=20, merge=False)]
    assert hits(client.get("/api/search", params={"q": "a red circle", "k": 20, "merge": False})) == unmerged
    assert len(unmerged) == 10


def _filters(filters: dict):
    from datetime import date

    from clipvip.search import Filters

    return Filters(**{key: date.fromisoformat(value) if key == "before" else value for key, value in filters.items()})


def test_terms(client, library):
    """Catches weights that are ignored, and "more like this" that is about something else."""
    whole = library.segments_of(first(client, path="long.mp4")["video_id"])
    like = client.get("/api/search", params={"similar_to": whole[1].segment_id, "k": 1, "merge": False}).json()
    assert like["results"][0]["segment_id"] == whole[1].segment_id
    assert like["results"][0]["score"] == pytest.approx(1, abs=1e-4)

    terms = [{"text": "a red circle"}, {"segment_id": whole[1].segment_id, "weight": -2}]
    answer = client.post("/api/search", json={"terms": terms, "k": 20, "merge": False})
    vectors = dict(zip(*_all_vectors(library), strict=True))
    wanted = library.encoder.encode_texts(["a red circle"])[0] - 2 * vectors[whole[1].segment_id]
    scores = {segment: vector @ wanted / np.linalg.norm(wanted) for segment, vector in vectors.items()}
    assert hits(answer) == sorted(scores.items(), key=lambda pair: -pair[1])


def _all_vectors(library):
    rows = library.store.segments.to_arrow().to_pylist()
    return [row["segment_id"] for row in rows], np.array([row["vector"] for row in rows], np.float32)


def test_video_and_its_timeline(client, library):
    """Catches a timeline out of order, with segments left out, or scored otherwise than the search scores them."""
    video_id = first(client, path="long.mp4")["video_id"]
    video = client.get(f"/api/videos/{video_id}").json()
    assert (video["path"], video["duration_s"], video["there"]) == ("holiday/long.mp4", 30, True)
    assert [segment["start_s"] for segment in video["segments"]] == [0, 6, 12, 18]
    by_address = client.get(f"/api/videos/{video_id}/hits", params={"q": "a red circle"}).json()
    by_terms = client.post(f"/api/videos/{video_id}/hits", json={"terms": [{"text": "a red circle"}]}).json()
    assert by_address == by_terms
    assert [row["segment_id"] for row in by_terms["segments"]] == [row["segment_id"] for row in video["segments"]]
    scores = {hit.segment_id: hit.score for hit in library.search("a red circle", k=20, merge=False)}
    for row in by_terms["segments"]:
        assert row["score"] == pytest.approx(scores[row["segment_id"]], abs=1e-5)


def test_pictures(client, place):
    """Catches pictures of another segment, and strips without six frames."""
    segment_id = first(client, path="short.mp4")["segment_id"]
    thumbnail = client.get(f"/api/segments/{segment_id}/thumbnail")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(thumbnail.content)).size == (160, 120)
    strip = client.get(f"/api/segments/{segment_id}/strip")
    shown = np.array(Image.open(io.BytesIO(strip.content)))
    assert shown.shape == (120, 6 * 160, 3)
    frames = read_frames(place / "videos" / "short.mp4", num_frames=6, size=120)
    assert np.abs(shown.astype(int) - np.concatenate(list(frames), axis=1)).mean() < 12
    assert client.get(f"/api/segments/{segment_id}/strip").content == strip.content


def test_segments_without_thumbnail_get_one(client, library, monkeypatch):
    """Catches blank cards for an index that was made of embeddings."""
    monkeypatch.setattr(type(library.store), "thumbnail", lambda *_: None)
    answer = client.get(f"/api/segments/{first(client)['segment_id']}/thumbnail")
    assert answer.status_code == 200
    assert Image.open(io.BytesIO(answer.content)).size == (160, 120)


def test_streams_that_browsers_play(client, place):
    """Catches a file that is changed on its way, ranges off by one, and a HEAD that sends the film."""
    for name, media_type in (("short.mp4", "video/mp4"), ("clip.webm", "video/webm")):
        content = (place / "videos" / name).read_bytes()
        url = f"/api/videos/{first(client, path=name)['video_id']}/stream"
        whole = client.get(url)
        assert (whole.status_code, whole.content) == (200, content)
        assert whole.headers["content-type"] == media_type
        assert whole.headers["accept-ranges"] == "bytes"
        head = client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) == len(content)
        for asked, told in (("bytes=0-9", content[:10]), ("bytes=-7", content[-7:]), ("bytes=5-", content[5:])):
            part = client.get(url, headers={"range": asked})
            assert (part.status_code, part.content) == (206, told)
        last = len(content) - 1
        part = client.get(url, headers={"range": f"bytes={last}-{last + 1000}"})
        assert (part.status_code, part.content) == (206, content[-1:])
        assert part.headers["content-range"] == f"bytes {last}-{last}/{len(content)}"
        beyond = client.get(url, headers={"range": f"bytes={len(content)}-"})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
        same = {"range": "bytes=0-9", "if-range": whole.headers["etag"]}
        assert client.get(url, headers=same).status_code == 206
        assert client.get(url, headers={"range": "bytes=0-9", "if-range": '"other"'}).content == content


@pytest.mark.parametrize("name", ["new.mp4", "old.avi", "tape.mkv"])
def test_streams_that_browsers_do_not_play(client, place, name):
    """Catches a black player, a copy made again at every range, and no way to get the file itself."""
    url = f"/api/videos/{first(client, path=name)['video_id']}/stream"
    copy = client.get(url)
    assert copy.status_code == 200
    assert copy.headers["content-type"] == "video/mp4"
    info = probe(copy.content)
    assert (info.codec, info.num_frames, info.width) == ("h264", 12, 64)
    made = sorted((path, path.stat().st_ctime_ns) for path in (place / "cache" / "copies").iterdir() if path.stat())
    part = client.get(url, headers={"range": "bytes=0-99"})
    assert (part.status_code, part.content) == (206, copy.content[:100])
    assert [path for path, _ in made] == sorted((place / "cache" / "copies").iterdir())
    raw = client.get(url, params={"transcode": "never"})
    assert raw.content == (place / "videos" / name).read_bytes()


def test_copies_that_cannot_be_made_are_told(place, tmp_path):
    """Catches a bare failure of the server for a full disk, or for a film that went while its copy was waited for."""
    film = tmp_path / "old.avi"
    shutil.copy(place / "videos" / "old.avi", film)
    file = served_file(str(tmp_path), "old.avi")
    film.unlink()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "copies").touch()  # no folder: nothing can be written there, whoever the user is
    with served(place, cache=tmp_path / "cache") as client:
        answer = client.get(f"/api/videos/{first(client, path='old.avi')['video_id']}/stream")
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "no_copy")
        assert "--cache" in answer.json()["error"]["message"]
        assert str(tmp_path) not in answer.text
        with pytest.raises(Problem) as gone:
            client.portal.call(client.app.state.services.media.copy_of, file, 1.0)
        assert (gone.value.status, gone.value.code) == (404, "gone")


def test_uploads(client, place, library):
    """Catches a picture or clip that is encoded otherwise than the index encodes it, and files kept on the server."""
    clip = (place / "videos" / "short.mp4").read_bytes()
    told = client.post("/api/uploads", files={"file": ("x.bin", clip)}).json()
    assert (told["kind"], told["expires_in_s"]) == ("video", 3600)
    answer = client.post("/api/search", json={"terms": [{"upload_id": told["upload_id"]}], "k": 1}).json()
    assert answer["results"][0]["path"] == "short.mp4"
    assert answer["results"][0]["score"] == pytest.approx(1, abs=1e-4)

    buffer = io.BytesIO()
    Image.fromarray(read_frames(place / "videos" / "tape.mkv", [3])[0]).save(buffer, "PNG")
    told = client.post("/api/uploads", files={"file": ("photo.png", buffer.getvalue())}).json()
    assert told["kind"] == "image"
    answer = client.post("/api/search", json={"terms": [{"upload_id": told["upload_id"]}], "k": 20, "merge": False})
    (place / "photo.png").write_bytes(buffer.getvalue())
    wanted = library.encoder.encode_images([place / "photo.png"])[0]
    expected = sorted(zip(*_all_vectors(library), strict=True), key=lambda pair: -pair[1] @ wanted)
    assert [row["segment_id"] for row in answer.json()["results"]] == [segment for segment, _ in expected]

    unknown = client.post("/api/search", json={"terms": [{"upload_id": "never"}]})
    assert unknown.status_code == 404
    assert "again" in unknown.json()["error"]["message"]


def events(client, job_id) -> list[dict]:
    """All that is told of a job until it ends."""
    with client.stream("GET", f"/api/jobs/{job_id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: ")]


def test_index_jobs(tmp_path, place):
    """Catches new videos not found when a job is done, two jobs at once, and folders that nobody registered."""
    mine = tmp_path / "mine"
    shutil.copytree(place, mine, ignore=shutil.ignore_patterns("cache", "index"))
    Library(mine / "index", clipvip.load(mine / "model", device="cpu")).add(mine / "videos" / "holiday")
    with served(mine) as client:
        assert client.get("/api/status").json()["videos"] == 1
        for folder in ("/etc", str(mine), "videos", str(mine / "videos" / "holiday" / ".." / ".."), "/nowhere"):
            refused = client.post("/api/jobs", json={"dir": folder})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_registered")
        shutil.copy(mine / "videos" / "tape.mkv", mine / "videos" / "holiday" / "new.mkv")
        (mine / "videos" / "holiday" / "bad.mp4").write_text("no video")
        job = client.post("/api/jobs", json={"dir": str(mine / "videos" / "holiday")})
        assert job.status_code == 201
        assert client.post("/api/jobs", json={"dir": str(mine / "videos" / "holiday")}).status_code == 409
        told = events(client, job.json()["job_id"])
        assert [event["state"] for event in told[:-1]] == ["running"] * (len(told) - 1)
        last = told[-1]
        assert last["state"] == "done", last
        assert (last["summary"]["videos"], last["summary"]["unchanged"], last["summary"]["skipped"]) == (1, 1, 1)
        assert last["skipped"][0]["path"].endswith("bad.mp4")
        assert first(client, path="new.mkv")["path"] == "new.mkv"
        status = client.get("/api/status").json()
        assert [row["path"] for row in status["failures"]] == ["bad.mp4"]
        [folder] = client.get("/api/libraries").json()["libraries"]
        assert (folder["videos"], folder["segments"]) == (2, 5)
        assert client.get("/api/jobs").json()["jobs"] == [last]

        (mine / "videos" / "holiday" / "new.mkv").unlink()
        for body in ({}, {"dir": str(mine), "prune": True}, {"prune": False}):
            assert client.post("/api/jobs", json=body).status_code == 422
        last = events(client, client.post("/api/jobs", json={"prune": True}).json()["job_id"])[-1]
        assert (last["kind"], last["state"], last["summary"]["removed"]) == ("prune", "done", 1)
        assert client.get("/api/status").json()["videos"] == 1


def test_jobs_stay_within_the_folders_that_were_added(tmp_path, place):
    """Catches a whole folder that is served because one file of it was added, and links that lead a job elsewhere."""
    mine = tmp_path / "mine"
    shutil.copytree(place, mine, ignore=shutil.ignore_patterns("cache", "index"))
    videos, outside = mine / "videos", mine / "outside"
    library = Library(mine / "index", clipvip.load(mine / "model", device="cpu"))
    library.add([videos / "short.mp4", videos / "holiday"])
    (outside / "more").mkdir(parents=True)
    (outside / "in").symlink_to(videos / "holiday")
    (videos / "holiday" / "sub").mkdir()
    (outside / "sub").mkdir()
    (outside / "link").symlink_to(videos / "holiday" / "sub")
    (videos / "holiday" / "out").symlink_to(outside)
    (videos / "holiday" / "deep").symlink_to(outside / "more")
    refused = [
        f"{videos}",  # of it one file was added
        f"{outside}/in",  # leads into what was added, but is a folder of its own
        f"{outside}/link/../sub",
        f"{videos}/holiday/out",
        f"{videos}/holiday/../new",
    ]
    with served(mine) as client:
        assert str(videos) in client.get("/api/status").json()["roots"]
        for folder in refused:
            answer = client.post("/api/jobs", json={"dir": folder})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_registered"), folder
        job = client.post("/api/jobs", json={"dir": f"{videos}/holiday/deep/.."}).json()
        assert events(client, job["job_id"])[-1]["dir"] == f"{videos}/holiday"  # not above what the link points to
        assert Library(mine / "index").roots == [f"{videos}/holiday"]


def test_searching_while_indexing(tmp_path, place):
    """Catches answers that mix two versions of the index, miss what is indexed, or fail while it is written to."""
    mine = tmp_path / "mine"
    shutil.copytree(place, mine, ignore=shutil.ignore_patterns("cache", "index"))
    library = Library(mine / "index", clipvip.load(mine / "model", device="cpu"))
    library.add(mine / "videos")
    for i in range(12):
        write_video(mine / "videos" / f"new {i}.mp4", 40 + i, grain=5 + i)
    question = {"q": "a red circle", "k": 100, "merge": False}

    def answer(client) -> list[tuple[str, float]]:
        got = client.get("/api/search", params=question)
        assert got.status_code == 200, got.text
        return [(row["segment_id"], round(row["score"], 5)) for row in got.json()["results"]]

    with served(mine) as client:
        before, during, ended, failures = answer(client), [], threading.Event(), []

        def keep_asking() -> None:
            while not ended.is_set():
                try:
                    during.append(answer(client))
                except AssertionError as error:
                    failures.append(error)

        askers = [threading.Thread(target=keep_asking) for _ in range(3)]
        for asker in askers:
            asker.start()
        told = events(client, client.post("/api/jobs", json={"dir": str(mine / "videos")}).json()["job_id"])
        ended.set()
        for asker in askers:
            asker.join()
        after = answer(client)
    assert told[-1]["state"] == "done", told[-1]
    assert not failures
    assert (len(before), len(after)) == (10, 22)
    assert len(during) > 3
    library.refresh()
    same = library.search("a red circle", k=100, merge=False)
    assert after == [(hit.segment_id, pytest.approx(hit.score, abs=2e-5)) for hit in same]
    assert all(got in (before, after) for got in during)


def test_other_writers_are_seen(tmp_path, place):
    """Catches a server that must be started again after every `clipvip index`."""
    mine = tmp_path / "mine"
    shutil.copytree(place, mine, ignore=shutil.ignore_patterns("cache"))
    with served(mine) as client:
        before = client.get("/api/status").json()["videos"]
        write_video(mine / "videos" / "later.mp4", 12)
        Library(mine / "index", clipvip.load(mine / "model", device="cpu")).add(mine / "videos")
        client.app.state.services.live.renew()  # what it does every two seconds
        # a copied library has other roots, so all its files are new ones
        assert client.get("/api/status").json()["videos"] == 2 * before + 1
        assert first(client, path="later.mp4")["path"] == "later.mp4"


def test_hostile_names_are_text(client):
    """Catches a file name that comes back as part of a page."""
    answer = client.get("/api/search", params={"q": "a red circle", "path": "[<]*"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["results"][0]["path"] == HOSTILE


def test_the_page_and_its_description(client):
    """Catches a package without its page, and pages that load scripts from elsewhere."""
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert "https://" not in page.text
    assert client.get("/docs").status_code == 404
    paths = client.get("/api/openapi.json").json()["paths"]
    assert {"/api/search", "/api/uploads", "/api/videos/{video_id}/stream", "/api/jobs/{job_id}/events"} <= set(paths)


def test_an_index_of_another_model_is_not_searched(tmp_path, place, caplog):
    """Catches a running server that compares its model's texts with the vectors of the model the index has now."""
    mine = tmp_path / "mine"
    shutil.copytree(place, mine, ignore=shutil.ignore_patterns("cache"))
    write_model(mine / "other", seed=1)
    with served(mine) as client:
        before = hits(client.get("/api/search", params={"q": "a red circle", "k": 50}))
        shutil.rmtree(mine / "index")
        Library(mine / "index", clipvip.load(mine / "other", device="cpu")).add(mine / "videos")
        for _ in range(3):
            client.app.state.services.live.renew()
        assert hits(client.get("/api/search", params={"q": "a red circle", "k": 50})) == before
        assert len([record for record in caplog.records if "cannot be read anew" in record.getMessage()]) <= 2
        assert "made with" in caplog.text
